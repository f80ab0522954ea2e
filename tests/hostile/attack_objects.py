"""Spoilt annotations of COCO and VOC: every target lies in its image, or the file and the entry are named."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
from PIL import Image

from mona_peft.finetuning.data.dense.targets import training_targets
from mona_peft.finetuning.data.sources.coco import load_coco
from mona_peft.finetuning.data.sources.voc_detection import load_voc_detection

from .mangle import mangle_file, mangle_value, write_json_deep

SEGMENTATIONS = (
    [[2, 2, 20, 2, 20, 20, 2, 20]],
    {"size": [30, 40], "counts": [100, 50, 1050]},
    {"size": [30, 40], "counts": [1000, 100]},
    {"size": [30, 40], "counts": [1]},
    {"size": [30, 40], "counts": "not a run length"},
    {"size": [10**6, 10**6], "counts": [10**12]},
    [[2, 2, 20]],
    [[float("nan")] * 6],
    [[1e300] * 6],
    [],
    None,
)

VOC_OBJECT = """<object><name>{name}</name><difficult>0</difficult>
<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"""


def attack(rng: random.Random, folder: Path) -> None:
    """Load COCO or VOC files that were spoilt, and make the targets of all images."""
    data = (_coco if rng.random() < 0.6 else _voc)(rng, folder)
    for images in data.splits.values():
        for one in images:
            image, turned = one.load()
            with_masks = all("segmentation" in a for a in turned.annotations)
            targets = training_targets(turned, data.category_ids, with_masks)
            edges = np.array([image.width, image.height] * 2)
            assert np.isfinite(targets.boxes).all() and (targets.boxes >= 0).all() and (targets.boxes <= edges).all()
            assert (targets.labels < len(data.class_names)).all()
            assert not with_masks or (targets.masks <= 1).all()


def _coco(rng: random.Random, folder: Path):
    (folder / "train").mkdir()
    Image.new("RGB", (40, 30)).save(folder / "train" / "1.png")
    annotation = {
        "id": 1,
        "image_id": 1,
        "category_id": 3,
        "bbox": [2, 2, 18, 18],
        "area": 324,
        "iscrowd": rng.choice([0, 0, 1]),
        "segmentation": rng.choice(SEGMENTATIONS),
    }
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 30, "width": 40}],
        "annotations": [annotation],
        "categories": [{"id": 3, "name": "cat"}],
    }
    file = folder / "train.json"
    write_json_deep(file, mangle_value(rng, content) if rng.random() < 0.7 else content)
    if rng.random() < 0.15:
        file.write_text(json.dumps(content))
        mangle_file(rng, rng.choice([file, folder / "train" / "1.png"]))
    return load_coco(folder, {"train": ("train.json", "train")})


def _voc(rng: random.Random, folder: Path):
    root = folder / "VOC2007"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(root / "JPEGImages" / "000001.jpg")
    boxes = (
        [1, 1, 20, 20],
        [0, 0, 0, 0],
        ["nan"] * 4,
        [-5, -5, 500, 500],
        [20, 20, 1, 1],
        ["", "", "", ""],
        [1e99] * 4,
    )
    file_names = ("000001.jpg", "../../x.jpg", "/etc/passwd", "", "000002.jpg")
    listed = VOC_OBJECT.format(name=rng.choice(["cat", "dog", "unicorn", ""]), box=rng.choice(boxes))
    entity = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>' if rng.random() < 0.1 else ""
    (root / "Annotations" / "000001.xml").write_text(
        f"{entity}<annotation><filename>{rng.choice(file_names)}</filename><size><width>40</width><height>30</height>"
        f"<depth>3</depth></size>{listed}</annotation>"
    )
    (root / "ImageSets" / "Main" / "train.txt").write_text(
        rng.choice(["000001\n", "000001\n", "../1\n", "", "\x00\n"])
    )
    if rng.random() < 0.4:
        files = [path for path in root.rglob("*") if path.is_file()]
        mangle_file(rng, rng.choice(sorted(files)))
    return load_voc_detection(folder, {"train": (("2007", "train"),)})
