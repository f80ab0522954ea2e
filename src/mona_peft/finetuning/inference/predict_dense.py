"""Predict boxes, masks and label maps of image files with a trained repository, and draw them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from mona_peft.finetuning.data.dense.masks import encode_mask
from mona_peft.finetuning.data.images import UnreadableImage, to_rgb
from mona_peft.finetuning.files import Json

from .dense import DenseFinding, LoadedDense
from .items import LABEL_MAP, Item


def predict_dense(
    loaded: LoadedDense,
    items: Sequence[tuple[Item, str | None]],
    threshold: float,
    folder: Path | None,
    shown: bool = True,
) -> Iterator[dict[str, object] | UnreadableImage]:
    """Predict images one by one, as each has its own size.

    Args:
        loaded (`LoadedDense`): The model.
        items (`Sequence`): Images, each with a name for its picture.
        threshold (`float`): Objects with a lower score are left out.
        folder (`Path`, *optional*): Where to write pictures of the predictions (and label maps as PNG).
        shown (`bool`): Whether to show a progress bar.

    Yields:
        A row for a table or JSON: `image`, and either `names`, `scores`, `boxes` and `masks` (COCO RLE, as JSON), or
        `classes` with the share of the pixels of each class. Of an image that cannot be read, the error.
    """

    def use(image: Image.Image, item: Item, picture: str | None) -> dict[str, object]:
        image = to_rgb(image)
        (found,) = loaded.predict([image], threshold)
        if folder is not None and picture is not None:
            _write_pictures(loaded, image, found, folder, picture)
        return {"image": item.name, **_to_row(found, loaded)}

    for item, picture in tqdm(items, desc="predicting", unit="image", disable=not shown):
        yield item.read(partial(use, item=item, picture=picture))


def _to_row(found: DenseFinding, loaded: LoadedDense) -> dict[str, object]:
    if "boxes" not in found:
        labels, counts = np.unique(found["labels"], return_counts=True)
        names = loaded.bare_model().config.id2label
        shares = {names[int(n)]: float(c / counts.sum()) for n, c in zip(labels, counts, strict=True)}
        return {"classes": json.dumps(shares)}
    row = {"names": found["names"], "scores": found["scores"].tolist(), "boxes": found["boxes"].tolist()}
    if "masks" in found:
        row["masks"] = [json.dumps(encode_mask(mask)) for mask in found["masks"]]
    return row


def _write_pictures(loaded: LoadedDense, image: Image.Image, found: DenseFinding, folder: Path, stem: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    loaded.draw_prediction(image, found).save(folder / f"{stem}.png")
    if "boxes" not in found:
        depth = np.uint8 if found["labels"].max(initial=0) < 256 else np.uint16
        Image.fromarray(found["labels"].astype(depth)).save(folder / f"{stem}{LABEL_MAP}.png")


def format_dense(rows: list[Json], most: int = 20) -> str:
    """The first results as text."""
    lines = []
    for row in rows[:most]:
        if "classes" in row:
            shares = sorted(json.loads(row["classes"]).items(), key=lambda pair: -pair[1])
            content = ", ".join(f"{name} {share:.0%}" for name, share in shares[:5])
        else:
            content = ", ".join(f"{n} {s:.2f}" for n, s in zip(row["names"], row["scores"], strict=True)) or "nothing"
        lines.append(f"{row['image']}  {content}")
    return "\n".join(lines + ([f"... and {len(rows) - most} more"] if len(rows) > most else []))
