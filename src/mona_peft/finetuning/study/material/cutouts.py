"""Drawings cut out and pasted over photographs: scenes with exact boxes and masks, in COCO's layout.

The drawings are those of `clipart` that are cut out already, by their alpha; the photographs are scikit-learn's and
scikit-image's. Things, versions of one drawing included, and photographs of a split are in no other split.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from mona_peft.finetuning.data.dense.masks import Annotation
from mona_peft.finetuning.data.embedded.scene_objects import mask_annotation
from mona_peft.finetuning.data.embedded.scenes import crop_photograph, hides_too_much, read_objects
from mona_peft.finetuning.files import Json

from .clipart import fetch_clipart, find_pictures
from .own_folder import making
from .pictures import SPLITS

#: None of them is in the photographs.
CLASSES = ("birds", "bugs", "fruit", "hardware", "music", "sports")
#: Scenes of each split.
SIZES = {"train": 400, "validation": 120, "test": 240}
SEED = 2026
#: Side of a scene, pixels: eight patches of DINOv2.
SIDE = 112
MOST_OBJECTS = 3
#: Least and greatest longer side of a drawing over the side of the scene.
OBJECT_SHARE = (0.35, 0.6)
MOST_OVERLAP = 0.3
#: A drawing is cut out if at least this share of it is clear, and at least that share is not.
LEAST_CLEAR, LEAST_OPAQUE = 0.1, 0.15


class Cutout(NamedTuple):
    """One drawing.

    Args:
        label (`int`): Index into `CLASSES`.
        image (`Image.Image`): RGBA, cropped to what is not clear.
    """

    label: int
    image: Image.Image


def prepare_cutouts(folder: Path) -> Path:
    """Write the scenes to `folder / "cutouts"`: `SPLIT/*.png` and `annotations/instances_SPLIT.json`.

    Raises:
        ValueError: If the folder is there, and holds other files.
    """
    cutouts = find_cutouts(fetch_clipart(folder))
    files = {split: f"annotations/instances_{split}.json" for split in SIZES}
    pictures = [_picture(split, number) for split, count in SIZES.items() for number in range(1, count + 1)]
    with making(folder / "cutouts", (*files.values(), *pictures)) as made:
        (made / "annotations").mkdir()
        for split, count in SIZES.items():
            scenes = write_scenes(made, split, cutouts[split], count)
            (made / files[split]).write_text(json.dumps(scenes), encoding="utf-8")
            print(f"{count} scenes of {len(cutouts[split])} drawings, {len(scenes['annotations'])} objects in {split}")
    return folder / "cutouts"


def _picture(split: str, number: int) -> str:
    return f"{split}/{number:05d}.png"


def find_cutouts(root: Path) -> dict[str, list[Cutout]]:
    """The drawings by split that are cut out."""
    found: dict[str, list[Cutout]] = {split: [] for split in SPLITS}
    for picture in find_pictures(root):
        if picture.label in CLASSES:
            image = read_cutout(picture.path)
            if image is not None:
                found[picture.split].append(Cutout(CLASSES.index(picture.label), image))
    return found


def read_cutout(path: Path) -> Image.Image | None:
    """A drawing cropped to what is not clear; None if it is not cut out, or too large to decode."""
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGBA")
    except Image.DecompressionBombError:
        return None
    image.thumbnail((2 * SIDE, 2 * SIDE))
    opaque = np.asarray(image)[..., 3] > 127
    if 1 - opaque.mean() < LEAST_CLEAR or opaque.mean() < LEAST_OPAQUE:
        return None
    return image.crop(image.getchannel("A").getbbox())


def write_scenes(target: Path, split: str, cutouts: Sequence[Cutout], count: int) -> Json:
    """Write the scenes of a split and give their annotations in COCO's format."""
    (target / split).mkdir()
    images: list[Json] = []
    annotations: list[Json] = []
    for number in range(1, count + 1):
        rng = np.random.default_rng([SEED, SPLITS.index(split), number])
        picture, objects = compose(split, cutouts, rng)
        path = target / _picture(split, number)
        picture.save(path)
        images.append({"id": number, "file_name": path.name, "height": SIDE, "width": SIDE})
        for one in objects:
            annotations.append({"id": len(annotations) + 1, "image_id": number, **one})
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def compose(split: str, cutouts: Sequence[Cutout], rng: np.random.Generator) -> tuple[Image.Image, list[Annotation]]:
    """Paste one to three drawings, of classes drawn first, over a photograph.

    Args:
        split (`str`): Of the photographs.
        cutouts (`Sequence[Cutout]`): To paste.
        rng (`np.random.Generator`): Draws everything.

    Returns:
        `tuple`: The scene, and its objects as COCO annotations without ids.
    """
    canvas = Image.fromarray(crop_photograph(split, rng, SIDE))
    owner = np.full((SIDE, SIDE), -1)
    labels: list[int] = []
    for _ in range(int(rng.integers(1, MOST_OBJECTS + 1))):
        label = int(rng.integers(len(CLASSES)))
        drawings = [one.image for one in cutouts if one.label == label]
        drawing = drawings[rng.integers(len(drawings))]
        scale = rng.uniform(*OBJECT_SHARE) * SIDE / max(drawing.size)
        width, height = (max(1, round(side * scale)) for side in drawing.size)
        place = (int(rng.integers(SIDE - width + 1)), int(rng.integers(SIDE - height + 1)))
        layer = Image.new("RGBA", (SIDE, SIDE))
        layer.paste(drawing.resize((width, height), Image.Resampling.BICUBIC), place)
        cover = np.asarray(layer)[..., 3] > 127
        if not cover.any() or hides_too_much(owner, cover, MOST_OVERLAP):
            continue
        canvas.paste(layer, (0, 0), layer)
        owner[cover] = len(labels)
        labels.append(label)
    masks, boxes = read_objects(owner, len(labels))
    objects = [mask_annotation(m, label + 1, box.tolist()) for m, label, box in zip(masks, labels, boxes, strict=True)]
    return canvas, objects
