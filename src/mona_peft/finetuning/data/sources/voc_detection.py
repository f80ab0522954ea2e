"""PASCAL VOC detection in its official layout: `VOCdevkit/VOC2007/{JPEGImages,Annotations,ImageSets/Main}`."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from pathlib import Path

from mona_peft.finetuning.data.dense.masks import Annotation
from mona_peft.finetuning.data.dense.objects import ObjectData, ObjectImage, check_entry
from mona_peft.finetuning.data.folders import DataFolder

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

#: Year and image set of each part: training on 07+12, as the paper does.
VOC0712 = {"train": (("2007", "trainval"), ("2012", "trainval")), "test": (("2007", "test"),)}
#: Images of the complete sets.
VOC0712_SIZES = {"train": 16551, "test": 4952}


def load_voc_detection(
    root: Path,
    parts: dict[str, Sequence[tuple[str, str]]] | None = None,
    class_names: Sequence[str] = VOC_CLASSES,
    exif_frame: str | None = None,
) -> ObjectData:
    """Load VOC detection.

    Boxes become 0-based with exclusive far edges: VOC's pixels count from 1 and its far edges belong to the box.

    Args:
        root (`Path`): the folder `VOCdevkit`, or the one that holds it.
        parts (`dict`, *optional*): year and image set of each split; 07+12 if left out.
        class_names (`Sequence[str]`): by label.
        exif_frame (`str`, *optional*): See `ObjectImage.frame`.

    Raises:
        FileNotFoundError: If an image set or annotation is missing.
        ValueError: If an annotation is broken, names an unknown class or a file outside its image folder.
    """
    root = root / "VOCdevkit" if (root / "VOCdevkit").is_dir() else root
    ids = {name: number for number, name in enumerate(class_names, 1)}
    splits: dict[str, list[ObjectImage]] = {}
    for split, sets in (parts or VOC0712).items():
        images = splits[split] = []
        for year, name in sets:
            folder = DataFolder(root / f"VOC{year}" / "JPEGImages")
            for path in _listed(root / f"VOC{year}", name):
                images.append(_read_annotation(path, folder, len(images) + 1, ids, exif_frame))
    return ObjectData("voc", splits, {number: name for name, number in ids.items()})


def _listed(folder: Path, image_set: str) -> Iterable[Path]:
    """Annotation files of an image set."""
    file = folder / "ImageSets" / "Main" / f"{image_set}.txt"
    if not file.exists():
        raise FileNotFoundError(f"There is no image set {file}; unpack the VOC archives so that it is there.")
    names = [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    inside = DataFolder(folder / "Annotations")
    return [inside.file(f"{name}.xml", file) for name in names]


def _read_annotation(
    path: Path, folder: DataFolder, image_id: int, ids: dict[str, int], exif_frame: str | None
) -> ObjectImage:
    if not path.exists():
        raise FileNotFoundError(f"There is no annotation {path}, which its image set lists.")
    try:
        tree = ET.parse(path).getroot()
        objects = tuple(_to_annotation(element, ids) for element in tree.findall("object"))
        height, width = (int(_text(tree, f"size/{side}")) for side in ("height", "width"))
        source = folder.file(_text(tree, "filename"), path)
        image = ObjectImage(image_id, height, width, source, objects, exif_frame)
        check_entry(image, dict.fromkeys(ids.values(), ""))
    except (ET.ParseError, ValueError) as error:
        raise ValueError(f"The annotation {path} cannot be used: {error}") from error
    return image


def _to_annotation(element: ET.Element, ids: dict[str, int]) -> Annotation:
    name = _text(element, "name")
    if name not in ids:
        raise ValueError(f"it has an object of class {name!r}; known are {', '.join(ids)}.")
    x1, y1, x2, y2 = (float(_text(element, f"bndbox/{edge}")) for edge in ("xmin", "ymin", "xmax", "ymax"))
    width, height = x2 - (x1 - 1), y2 - (y1 - 1)
    return {
        "category_id": ids[name],
        "bbox": [x1 - 1, y1 - 1, width, height],
        "area": width * height,
        "iscrowd": 0,
        "difficult": int(element.findtext("difficult") or 0),
    }


def _text(element: ET.Element, path: str) -> str:
    text = element.findtext(path)
    if not text:
        raise ValueError(f"<{element.tag}> has no <{path}>.")
    return text.strip()
