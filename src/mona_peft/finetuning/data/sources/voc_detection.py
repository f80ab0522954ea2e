"""PASCAL VOC detection in its official layout: `VOCdevkit/VOC2007/{JPEGImages,Annotations,ImageSets/Main}`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mona_peft.finetuning.data.dense.masks import Annotation
from mona_peft.finetuning.data.dense.objects import ObjectData, ObjectImage, check_entry
from mona_peft.finetuning.data.folders import DataFolder

from .voc import VOC_CLASSES, VocAnnotation, VocObject, devkit, read_image_set

#: Year and image set of each part: training on 07+12, as the paper does.
VOC0712 = {"train": (("2007", "trainval"), ("2012", "trainval")), "test": (("2007", "test"),)}


def load_voc_detection(
    root: Path,
    parts: dict[str, Sequence[tuple[str, str]]] | None = None,
    class_names: Sequence[str] = VOC_CLASSES,
    exif_frame: str | None = None,
) -> ObjectData:
    """Load VOC detection.

    Boxes become 0-based with exclusive far edges: VOC's pixels count from 1 and its far edges belong to the box.

    Args:
        root (`Path`): The folder `VOCdevkit`, or the one that holds it.
        parts (`dict`, *optional*): Year and image set of each split; 07+12 if left out.
        class_names (`Sequence[str]`): By label.
        exif_frame (`str`, *optional*): See `ObjectImage.frame`.

    Raises:
        FileNotFoundError: If an image set or annotation is missing.
        ValueError: If an annotation is broken, names an unknown class or a file outside its image folder.
    """
    ids = {name: number for number, name in enumerate(class_names, 1)}
    splits: dict[str, list[ObjectImage]] = {}
    for split, sets in (parts or VOC0712).items():
        images = splits[split] = []
        for year, name in sets:
            folder = devkit(root) / f"VOC{year}"
            files = DataFolder(folder / "JPEGImages")
            for _, annotation in read_image_set(folder, name):
                images.append(to_image(annotation, files, len(images) + 1, ids, exif_frame))
    return ObjectData("voc", splits, {number: name for name, number in ids.items()})


def to_image(
    annotation: VocAnnotation,
    files: DataFolder,
    image_id: int,
    ids: dict[str, int],
    exif_frame: str | None,
    same_name: Path | None = None,
) -> ObjectImage:
    """An annotation as an image with objects.

    Args:
        annotation (`VocAnnotation`): The file.
        files (`DataFolder`): Of the pictures.
        image_id (`int`): Unique in its split.
        ids (`dict[str, int]`): Category ids by class.
        exif_frame (`str`, *optional*): See `ObjectImage.frame`.
        same_name (`Path`, *optional*): The picture with the annotation's own name, for one that names none there is.

    Raises:
        ValueError: If it is broken, or names an unknown class or a file outside its image folder.
    """
    objects = tuple(_to_annotation(one, ids) for one in annotation.objects(tuple(ids)))
    height, width = (int(annotation.number(f"size/{side}")) for side in ("height", "width"))
    source = files.file(annotation.text("filename"), annotation.path)
    if same_name is not None and not source.exists():
        source = same_name
    image = ObjectImage(image_id, height, width, source, objects, exif_frame)
    try:
        check_entry(image, dict.fromkeys(ids.values(), ""))
    except ValueError as error:
        raise ValueError(f"The annotation {annotation.path} cannot be used: {error}") from error
    return image


def _to_annotation(one: VocObject, ids: dict[str, int]) -> Annotation:
    x1, y1, x2, y2 = one.corners
    return {
        "category_id": ids[one.name],
        "bbox": [x1 - 1, y1 - 1, x2 - (x1 - 1), y2 - (y1 - 1)],
        "area": one.area,
        "iscrowd": 0,
        "difficult": int(one.difficult),
    }
