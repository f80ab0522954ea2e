"""Predict boxes, masks and label maps of image files with a trained repository, and draw them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from mona_peft.finetuning.data.dense.masks import encode_mask
from mona_peft.finetuning.data.images import to_rgb

from .dense import LoadedDense


def predict_dense(
    loaded: LoadedDense,
    items: Sequence[tuple[str, Callable[[], Image.Image]]],
    threshold: float,
    folder: Path | None,
    shown: bool = True,
) -> list[dict[str, Any]]:
    """Predict images one by one, as each has its own size.

    Args:
        loaded (`LoadedDense`): the model.
        items (`Sequence`): name of each image, and how to open it.
        threshold (`float`): objects with a lower score are left out.
        folder (`Path`, *optional*): where to write pictures of the predictions (and label maps as PNG).
        shown (`bool`): whether to show a progress bar.

    Returns:
        `list[dict]`: rows for a table or JSON: `image`, and either `names`, `scores`, `boxes` and `masks` (COCO RLE,
        as JSON), or `classes` with the share of the pixels of each class.
    """
    rows = []
    for name, open_image in tqdm(items, desc="predicting", unit="image", disable=not shown):
        image = to_rgb(open_image())
        (found,) = loaded.predict([image], threshold)
        if folder is not None:
            _write_pictures(loaded, image, found, folder, _picture_name(name))
        rows.append({"image": name, **_to_row(found, loaded)})
    return rows


def _picture_name(name: str) -> str:
    """The whole path in one name: images of one name in several folders, or processes, must not overwrite another."""
    return "_".join(part for part in Path(name).with_suffix("").parts if part != Path(name).anchor)


def _to_row(found: dict[str, Any], loaded: LoadedDense) -> dict[str, Any]:
    if "boxes" not in found:
        labels, counts = np.unique(found["labels"], return_counts=True)
        names: Any = loaded.model.config.id2label  # type: ignore[union-attr]
        shares = {names[int(n)]: float(c / counts.sum()) for n, c in zip(labels, counts, strict=True)}
        return {"classes": json.dumps(shares)}
    row = {"names": found["names"], "scores": found["scores"].tolist(), "boxes": found["boxes"].tolist()}
    if "masks" in found:
        row["masks"] = [json.dumps(encode_mask(mask)) for mask in found["masks"]]
    return row


def _write_pictures(loaded: LoadedDense, image: Image.Image, found: dict[str, Any], folder: Path, stem: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    loaded.draw_prediction(image, found).save(folder / f"{stem}.png")
    if "boxes" not in found:
        depth = np.uint8 if found["labels"].max(initial=0) < 256 else np.uint16
        Image.fromarray(found["labels"].astype(depth)).save(folder / f"{stem}_labels.png")


def format_dense(rows: list[dict[str, Any]], most: int = 20) -> str:
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
