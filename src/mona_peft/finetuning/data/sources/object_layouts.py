"""The layouts of folders of images with objects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mona_peft.finetuning.data.dense.objects import ObjectData
from mona_peft.finetuning.data.images import Source

from .coco import find_coco_layout, find_roboflow, load_coco, load_roboflow
from .config import ObjectDataConfig
from .hub_objects import load_hub_objects
from .layouts import Layout
from .voc_folders import find_voc, load_voc
from .yolo import YoloFolder, find_yolo, load_yolo


def find_table(root: Path) -> bool:
    """Whether a folder has parquet files or the `metadata` of an image folder, which `datasets` reads."""
    places = (root, *(root / part for part in ("data", "train")))
    names = ("*.parquet", "metadata.jsonl", "metadata.csv", "metadata.parquet")
    return any(next(place.glob(name), None) for place in places for name in names)


def _load_yolo(root: Path, found: YoloFolder, config: ObjectDataConfig, bad: list[Source] | None) -> ObjectData:
    return load_yolo(found, config.class_names, config.exif_frame, bad)


def _load_table(root: Path, found: bool, config: ObjectDataConfig, bad: list[Source] | None) -> ObjectData:
    return replace(load_hub_objects(str(root), config, bad)[0], name=root.name)


OBJECT_LAYOUTS = (
    Layout(
        "Pascal VOC",
        "Annotations/*.xml and JPEGImages/, also in VOC2007/, or SPLIT/*.xml among the images of SPLIT",
        find_voc,
        load_voc,
        names_classes=False,
    ),
    Layout(
        "Roboflow's COCO export",
        "SPLIT/_annotations.coco.json among the images of SPLIT",
        find_roboflow,
        lambda root, found, config, bad: load_roboflow(root, found, config.exif_frame),
    ),
    Layout(
        "COCO",
        "annotations/instances_SPLIT.json and a folder SPLIT of images",
        find_coco_layout,
        lambda root, found, config, bad: load_coco(root, found, config.exif_frame),
    ),
    Layout("YOLO", "data.yaml, images/ and labels/", find_yolo, _load_yolo, names_classes=False),
    Layout("a table", "parquet files or metadata.jsonl with a column objects", find_table, _load_table, False, True),
)
