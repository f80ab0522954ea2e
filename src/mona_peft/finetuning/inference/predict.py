"""Predict labels of images with a trained repository, in one process or several."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import datasets
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from mona_peft.finetuning.data.images import IMAGE_SUFFIXES, UnreadableImage, open_image, warn_of_skipped
from mona_peft.finetuning.data.sources.classification import DataConfig, load_data
from mona_peft.finetuning.environment import say
from mona_peft.finetuning.files import Json, read_json
from mona_peft.finetuning.training.run_folder import RUN_FILE

from .classification import LabelScore, LoadedClassifier
from .config import PredictionConfig
from .dense import LoadedDense
from .items import Item, picture_names, refuse_overwriting
from .loading import load
from .predict_dense import format_dense, predict_dense

READ = (*IMAGE_SUFFIXES, ".gif")


def predict(config: PredictionConfig, data: DataConfig) -> list[dict[str, object]]:
    """Predict every image, in the order given, and write and print the results.

    Args:
        config (`PredictionConfig`): Model, images, output.
        data (`DataConfig`): A dataset, where no images are given.

    Returns:
        `list[dict[str, object]]`: `image`, `label`, `score`, `labels`, `scores`, and `true` where known.
    """
    accelerator = Accelerator(cpu=config.cpu)
    folder = Path(config.draw_dir) if config.draw_dir else None
    if data.dataset:
        items = _from_dataset(data, config.split, seed_of(config))
    else:
        items = find_images(config.images, drawn=folder)
    loaded = load(config.model, base_model=config.base_model, device=accelerator.device)
    dense = isinstance(loaded, LoadedDense)
    pictures: list[str] | list[None] = [None] * len(items)
    if dense and folder is not None:
        pictures = picture_names([item.name for item in items])
        refuse_overwriting(items, pictures, folder)
    with accelerator.split_between_processes(list(zip(items, pictures, strict=True))) as part:
        shown = accelerator.is_main_process
        if isinstance(loaded, LoadedDense):
            found = predict_dense(loaded, part, config.threshold, folder, shown)
        elif isinstance(loaded, LoadedClassifier):
            found = _predict_labels(loaded, [item for item, _ in part], config, shown)
        else:
            raise ValueError(f"{config.model} is no classifier, segmenter or detector; nothing can be predicted.")
        rows = gather_object(list(_readable(found, data.skip_bad_images)))
    if accelerator.is_main_process:
        if config.output:
            write_results(rows, Path(config.output))
        print((format_dense(rows) if dense else format_results(rows)) if rows else "No image could be read.")
    accelerator.wait_for_everyone()
    return rows


def _readable(rows: Iterable[dict[str, object] | UnreadableImage], skip: bool) -> Iterator[dict[str, object]]:
    """The rows of images that could be read; of the others, the first is raised, or each is warned about."""
    for row in rows:
        if isinstance(row, dict):
            yield row
        elif not skip:
            raise row
        else:
            warnings.warn(f"Left out: {row}", stacklevel=2)


def find_images(paths: Sequence[str], drawn: Path | None = None) -> list[Item]:
    """The image files given, and those in the folders given, in order.

    Args:
        paths (`Sequence[str]`): Files and folders.
        drawn (`Path`, *optional*): Folder that pictures are written to: in a folder above it, it is passed over.

    Raises:
        FileNotFoundError: If a path is not there, or there is no image at all.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(path.rglob("*"))
            warn_of_skipped(path, found, READ)
            files += _without_drawn([file for file in found if file.suffix.lower() in READ], path, drawn)
        elif path.exists():
            files.append(path)
        else:
            raise FileNotFoundError(f"There is no image or folder {path}.")
    if not files:
        raise FileNotFoundError(f"No images in {list(paths)}; give --images FILE FOLDER ..., or --dataset NAME.")
    return [Item(str(file), partial(open_image, file)) for file in files]


def _without_drawn(files: list[Path], folder: Path, drawn: Path | None) -> list[Path]:
    """The files of a folder without those in the folder of pictures below it; says how many are left out."""
    if drawn is None or folder.resolve() not in drawn.resolve().parents:
        return files
    kept = [file for file in files if drawn.resolve() not in file.resolve().parents]
    if len(kept) < len(files):
        say(f"The {len(files) - len(kept)} images in {drawn} are not predicted: --draw_dir writes pictures there.")
    return kept


def seed_of(config: PredictionConfig) -> int:
    """The seed that the run of the model drew its splits with."""
    record = Path(config.model).resolve().parent / RUN_FILE
    if config.seed is not None or not record.exists():
        return config.seed or 0
    return int(read_json(record, "It holds the seed of the run; give it with --seed.").get("seed", 0))


def _from_dataset(data: DataConfig, split: str, seed: int) -> list[Item]:
    loaded = load_data(data, seed)
    if split not in loaded.splits:
        raise ValueError(f"{loaded.name} has no split {split!r}; there are {', '.join(loaded.splits)}.")
    rows: datasets.Dataset = loaded.splits[split]
    images = rows.select_columns([loaded.image_column])
    labels = [None if loaded.multilabel else loaded.class_names[label] for label in rows[loaded.label_column]]
    return [
        Item(f"{split}/{row}", lambda row=row: open_image(images[row][loaded.image_column], row), label)  # type: ignore[misc]
        for row, label in enumerate(labels)
    ]


def _predict_labels(
    loaded: LoadedClassifier, items: list[Item], config: PredictionConfig, shown: bool
) -> Iterator[dict[str, object] | UnreadableImage]:
    """A row an image, or why it could not be read; one image at a time is open."""
    with tqdm(total=len(items), desc="predicting", unit="image", disable=not shown) as bar:
        for start in range(0, len(items), config.batch_size):
            batch = items[start : start + config.batch_size]
            prepared = [item.read(loaded.prepare) for item in batch]
            tensors = [pixels for pixels in prepared if isinstance(pixels, torch.Tensor)]
            found = iter(loaded.predict_prepared(tensors, config.top_k))
            for item, pixels in zip(batch, prepared, strict=True):
                yield _label_row(item, next(found)) if isinstance(pixels, torch.Tensor) else pixels
            bar.update(len(batch))


def _label_row(item: Item, found: list[LabelScore]) -> dict[str, object]:
    labels, scores = [entry["label"] for entry in found], [entry["score"] for entry in found]
    row: dict[str, object] = {
        "image": item.name,
        "label": labels[0],
        "score": scores[0],
        "labels": labels,
        "scores": scores,
    }
    return row if item.label is None else {**row, "true": item.label}


def write_results(rows: list[dict[str, object]], path: Path) -> None:
    """Write the results in the format that the name of the file tells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif path.suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(str(path))
    else:
        datasets.Dataset.from_list(rows).to_csv(str(path))


def format_results(rows: list[Json], most: int = 20) -> str:
    """The first results as a table, and the accuracy where the true labels are known."""
    width = max(len(row["image"]) for row in rows[:most])
    lines = [f"{row['image']:<{width}}  {row['score']:7.2%}  {row['label']}" for row in rows[:most]]
    if len(rows) > most:
        lines.append(f"... and {len(rows) - most} more")
    known = [row for row in rows if "true" in row]
    if known:
        right = sum(row["label"] == row["true"] for row in known)
        lines.append(f"Accuracy: {right / len(known):.2%} ({right} of {len(known)})")
    return "\n".join(lines)
