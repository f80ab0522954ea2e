"""Small data sets of the embedded scenes in the layouts that people bring."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from mona_peft.finetuning.data.dense.masks import decode_mask
from mona_peft.finetuning.data.dense.objects import ObjectData
from mona_peft.finetuning.data.dense.segmentation import SegmentationData
from mona_peft.finetuning.data.images import IGNORED
from mona_peft.finetuning.data.sources.coco import to_coco

from .datasets import mask_to_polygons

SHORT = {"train": "train", "validation": "valid", "test": "test"}


def write_yolo(data: ObjectData, root: Path, outlines: bool = False) -> Path:
    """`SPLIT/images`, `SPLIT/labels` and `data.yaml`, with the paths that Roboflow writes."""
    numbers = {id_: number for number, id_ in enumerate(data.categories)}
    for split, images in data.splits.items():
        for part in ("images", "labels"):
            (root / SHORT[split] / part).mkdir(parents=True)
        for image in images:
            image.read().save(root / SHORT[split] / "images" / f"{image.id}.png")
            lines = []
            for one in image.annotations:
                shares = _outline(one, image) if outlines else box_as("yolo", one["bbox"], image)
                lines.append(" ".join([str(numbers[one["category_id"]]), *(f"{share:.9f}" for share in shares)]))
            if lines:
                (root / SHORT[split] / "labels" / f"{image.id}.txt").write_text("\n".join(lines) + "\n")
    keys = {"train": "train", "validation": "val", "test": "test"}
    places = "".join(f"{keys[split]}: ../{SHORT[split]}/images\n" for split in data.splits)
    names = json.dumps(list(data.class_names))
    (root / "data.yaml").write_text(f"{places}\nnc: {len(data.categories)}\nnames: {names}\n")
    return root


def _outline(annotation, image):
    mask = decode_mask(annotation, image.height, image.width)
    largest = max(mask_to_polygons(mask), key=len)
    return np.array(largest).reshape(-1, 2).clip(0, [image.width, image.height]).ravel() / (
        [image.width, image.height] * (len(largest) // 2)
    )


def write_roboflow(data: ObjectData, root: Path) -> Path:
    """`SPLIT/_annotations.coco.json` among the pictures, with a category that only groups the others."""
    for split, images in data.splits.items():
        folder = root / SHORT[split]
        folder.mkdir(parents=True)
        names = {image.id: f"{image.id}.png" for image in images}
        for image in images:
            image.read().save(folder / names[image.id])
        content = to_coco(images, data.categories, names)
        for category in content["categories"]:
            category["supercategory"] = "things"
        content["categories"].insert(0, {"id": 0, "name": "things", "supercategory": "none"})
        (folder / "_annotations.coco.json").write_text(json.dumps(content))
    return root


def box_as(kind: str, box, image) -> list[float]:
    """A COCO box in another format."""
    x, y, width, height = box
    sides = [image.width, image.height] * 2
    if kind == "yolo":
        return (np.array([x + width / 2, y + height / 2, width, height]) / sides).tolist()
    corners = [x, y, x + width, y + height]
    return {"coco": box, "pascal_voc": corners, "albumentations": (np.array(corners) / sides).tolist()}[kind]


def write_table(data: ObjectData, root: Path, kind: str = "coco", named: bool = True) -> Path:
    """Parquet files with columns `image` and `objects`, boxes in a format."""
    numbers = {id_: number for number, id_ in enumerate(data.categories)}
    label = datasets.ClassLabel(names=list(data.class_names)) if named else datasets.Value("string")
    fields = {"bbox": datasets.List(datasets.Value("float64"), 4), "category": label}
    features = datasets.Features({"image": datasets.Image(), "objects": datasets.List(fields)})
    (root / "data").mkdir(parents=True)
    for split, images in data.splits.items():
        rows = []
        for image in images:
            objects = [
                {
                    "bbox": [float(value) for value in box_as(kind, one["bbox"], image)],
                    "category": numbers[one["category_id"]] if named else data.categories[one["category_id"]],
                }
                for one in image.annotations
            ]
            rows.append({"image": image.read(), "objects": objects})
        table = datasets.Dataset.from_list(rows, features=features)
        table.to_parquet(str(root / "data" / f"{split}-00000-of-00001.parquet"))
    return root


def stored_labels(labels: np.ndarray, shift: int) -> Image.Image:
    """A label map as a file has it: numbers from `shift`, 0 or 255 where there is no class."""
    return Image.fromarray(np.where(labels == IGNORED, 0 if shift else IGNORED, labels + shift).astype(np.uint8))


def colours(count: int) -> list[tuple[int, int, int]]:
    """Colours that differ, one for each class."""
    return [(40 * (number + 1) % 256, 10 * number, 255 - 30 * number) for number in range(count)]


def write_coloured(data: SegmentationData, root: Path, palette: bool = False) -> Path:
    """`SPLIT/images` and `SPLIT/masks` in colours, as RGB or with a palette, and `class_dict.csv`."""
    table = [*colours(len(data.class_names)), (0, 0, 0)]
    for split, samples in data.splits.items():
        for part in ("images", "masks"):
            (root / SHORT[split] / part).mkdir(parents=True)
        for number, sample in enumerate(samples):
            image, labels = data.read(sample)
            image.save(root / SHORT[split] / "images" / f"{number}.png")
            indices = np.where(labels == IGNORED, len(table) - 1, labels).astype(np.uint8)
            coloured = Image.fromarray(np.array(table, np.uint8)[indices])
            if palette:  # a palette in an order of its own, as tools write them
                coloured = coloured.quantize(len(table) + 3, dither=Image.Dither.NONE)
            coloured.save(root / SHORT[split] / "masks" / f"{number}_mask.png")
    rows = [f"{name},{r},{g},{b}" for name, (r, g, b) in zip([*data.class_names, "void"], table, strict=True)]
    (root / "class_dict.csv").write_text("name,r,g,b\n" + "\n".join(rows) + "\n")
    return root


def write_panoptic(data: SegmentationData, root: Path) -> Path:
    """COCO's panoptic layout: a segment a class, its colour an id."""
    (root / "annotations").mkdir(parents=True)
    categories = [{"id": 10 * (n + 1), "name": name, "isthing": 0} for n, name in enumerate(data.class_names)]
    for split, samples in data.splits.items():
        name = f"{'val' if split == 'validation' else split}2017"
        for folder in (root / name, root / "annotations" / f"panoptic_{name}"):
            folder.mkdir()
        images, annotations = [], []
        for number, sample in enumerate(samples, 1):
            image, labels = data.read(sample)
            image.save(root / name / f"{number:012d}.png")
            ids = np.where(labels == IGNORED, 0, 300 * number + labels)
            coloured = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
            Image.fromarray(coloured).save(root / "annotations" / f"panoptic_{name}" / f"{number:012d}.png")
            images.append({"id": number, "file_name": f"{number:012d}.png", "height": 1, "width": 1})
            segments = [
                {"id": 300 * number + label, "category_id": 10 * (label + 1)}
                for label in np.unique(labels[labels != IGNORED]).tolist()
            ]
            annotations.append({"image_id": number, "file_name": f"{number:012d}.png", "segments_info": segments})
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"panoptic_{name}.json").write_text(json.dumps(content))
    return root
