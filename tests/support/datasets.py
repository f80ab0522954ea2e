"""Small data sets of the embedded scenes, written in the layouts of COCO, VOC and ADE20K."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
from PIL import Image

from mona_peft.finetuning.data.dense.objects import ObjectData, ObjectImage
from mona_peft.finetuning.data.dense.segmentation import SegmentationData
from mona_peft.finetuning.data.images import IGNORED
from mona_peft.finetuning.data.sources.coco import to_coco


def write_coco(data: ObjectData, root: Path) -> dict[str, tuple[str, str]]:
    """Write a data set in COCO's layout, images as PNG, and give back the layout for [`load_coco`]."""
    layout = {}
    for split, images in data.splits.items():
        folder, file = root / split, root / "annotations" / f"instances_{split}.json"
        folder.mkdir(parents=True, exist_ok=True)
        file.parent.mkdir(exist_ok=True)
        names = {image.id: f"{image.id:012d}.png" for image in images}
        for image in images:
            image.read().save(folder / names[image.id])
        file.write_text(json.dumps(to_coco(images, data.categories, names)), encoding="utf-8")
        layout[split] = (f"annotations/{file.name}", split)
    return layout


def write_voc(data: ObjectData, root: Path, year: str = "2007") -> dict[str, tuple[tuple[str, str], ...]]:
    """Write a data set in VOC's layout and give back the parts for [`load_voc_detection`].

    Images are written as PNG under their VOC name, so that pixels stay as they are.
    """
    folder = root / f"VOC{year}"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for split, images in data.splits.items():
        names = [f"{image.id:06d}" for image in images]
        listing = folder / "ImageSets" / "Main" / f"{split}.txt"
        listing.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        for name, image in zip(names, images, strict=True):
            image.read().save(folder / "JPEGImages" / f"{name}.png")
            tree = _to_xml(image, f"{name}.png", data)
            ET.ElementTree(tree).write(folder / "Annotations" / f"{name}.xml")
    return {split: ((year, split),) for split in data.splits}


def _to_xml(image: ObjectImage, file_name: str, data: ObjectData) -> ET.Element:
    tree = ET.Element("annotation")
    ET.SubElement(tree, "filename").text = file_name
    size = ET.SubElement(tree, "size")
    for tag, value in (("width", image.width), ("height", image.height), ("depth", 3)):
        ET.SubElement(size, tag).text = str(value)
    for annotation in image.annotations:
        x, y, width, height = annotation["bbox"]
        element = ET.SubElement(tree, "object")
        ET.SubElement(element, "name").text = data.categories[annotation["category_id"]]
        ET.SubElement(element, "difficult").text = str(annotation.get("difficult", 0))
        box = ET.SubElement(element, "bndbox")
        for tag, value in (("xmin", x + 1), ("ymin", y + 1), ("xmax", x + width), ("ymax", y + height)):
            ET.SubElement(box, tag).text = f"{value:g}"
    return tree


def write_ade(data: SegmentationData, root: Path) -> Path:
    """Write a data set as ADE20K's folders, 0 for no class, and give back `root`."""
    for split, samples in data.splits.items():
        name = "training" if split == "train" else split
        for part in ("images", "annotations"):
            (root / part / name).mkdir(parents=True, exist_ok=True)
        for number, sample in enumerate(samples, 1):
            image, labels = data.read(sample)
            stored = np.where(labels == IGNORED, 0, labels + 1).astype(np.uint8)
            image.save(root / "images" / name / f"ADE_{number:08d}.png")
            Image.fromarray(stored).save(root / "annotations" / name / f"ADE_{number:08d}.png")
    lines = ["Idx\tName", *(f"{number}\t{name}" for number, name in enumerate(data.class_names, 1))]
    (root / "objectInfo150.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def mask_to_polygons(mask: np.ndarray) -> list[list[float]]:
    """Outlines of a mask `(H, W)` as COCO polygons: x, y, x, y, ... along the outer edges of its pixels.

    COCO's rasteriser turns them back into the mask with its holes filled, as polygons in COCO cannot have any.
    """
    from skimage.measure import find_contours

    padded = np.pad(mask.astype(float), 1)
    contours = find_contours(padded, 0.5)
    outer = [contour for contour in contours if _is_outer(contour)]
    # A contour runs through pixel centres half a pixel outside; COCO counts from the corner of the first pixel.
    return [(contour[:-1, ::-1] - 0.5).ravel().tolist() for contour in outer if len(contour) > 3]


def _is_outer(contour: np.ndarray) -> bool:
    """Whether a closed contour has high values inside: scikit-image turns the other way round holes."""
    rows, columns = contour[:-1, 0], contour[:-1, 1]
    doubled_area = np.sum(columns * np.roll(rows, -1) - np.roll(columns, -1) * rows)
    return bool(doubled_area > 0)
