"""Tables of images with odd labels, names and pictures: every sample has a class that exists, or the row is named."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from mona_peft.finetuning.data.classification.dataset import ClassificationImages
from mona_peft.finetuning.data.classification.transforms import ImageSettings, eval_transform
from mona_peft.finetuning.data.sources.classification import DataConfig, load_data

from .mangle import mangle_file

LABELS: tuple[list[Any], ...] = (
    [0, 1, 2],
    ["cat", "dog"],
    [0, 10**9],
    [0, 10**12],
    [-1, 0],
    [0, None],
    [None],
    [0.0, 1.0],
    [0.5],
    [True, False],
    [[0, 1], [1]],
    [[0, 1], [1, 0]],
    [[]],
    ["", "a"],
    ["](x)", "<b>", "a|b"],
    ["\x00", "a"],
)


def picture() -> bytes:
    """A small PNG file."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "png")
    return buffer.getvalue()


def attack(rng: random.Random, folder: Path) -> None:
    """Load a table whose label column, pictures or bytes are odd, and read all of its samples."""
    source = folder / "data"
    source.mkdir()
    labels = rng.choice(LABELS)
    for split in rng.choice([("train",), ("train", "test"), ("test",), ("train", "validation", "test")]):
        rows = rng.choice([1, 3, 8])
        images: list[Any] = [{"path": None, "bytes": picture()} for _ in range(rows)]
        if rng.random() < 0.3:
            odd: tuple[Any, ...] = (
                None,
                {"path": None, "bytes": b""},
                {"path": None, "bytes": b"no picture"},
                {"path": "../../../etc/passwd", "bytes": None},
                {"path": "/dev/zero", "bytes": None},
            )
            images[rng.randrange(rows)] = rng.choice(odd)
        chosen = [rng.choice(labels) for _ in range(rows)]
        table = {rng.choice(["image", "img", "picture"]): images, rng.choice(["label", "labels", "target"]): chosen}
        datasets.Dataset.from_dict(table).to_parquet(source / f"{split}.parquet")
    if rng.random() < 0.2:
        mangle_file(rng, rng.choice(sorted(source.iterdir())))
    names = rng.choice([[], [], ["one"], ["one", "one"], ["a", "b", "c", "d"]])
    skip = rng.random() < 0.3
    data = load_data(DataConfig(dataset=str(source), class_names=names, skip_bad_images=skip))
    for split in data.splits:
        samples = ClassificationImages(data, split, eval_transform(ImageSettings(8, 8)))
        for index in range(len(samples)):
            label = samples[index]["labels"]
            if data.multilabel:
                assert len(label) == len(data.class_names) and set(label.tolist()) <= {0.0, 1.0}
            else:
                assert 0 <= int(label) < len(data.class_names)
