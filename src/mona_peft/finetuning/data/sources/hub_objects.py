"""Images with objects in tables: data sets of the Hub, parquet files, or pictures with a `metadata.jsonl`.

A row has an image and a column of its objects, usually `objects`: a list of objects, or an object of lists, with boxes
and classes, and where there are such areas, crowds and segmentations.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets

from mona_peft.finetuning.data.dense.boxes import BOX_FORMATS, box_fault, find_box_format, is_box, to_pixels
from mona_peft.finetuning.data.dense.masks import Annotation
from mona_peft.finetuning.data.dense.objects import ObjectData, ObjectImage, check_entry
from mona_peft.finetuning.data.images import Source, UnreadableImage, image_size

from .checks import check_images, undecoded
from .config import ObjectDataConfig
from .hub import find_image_column, load_splits, pick_splits
from .labels import find_class_names
from .stored_rows import HubImage, stored_images

COLUMNS = ("objects", "annotations", "faces", "detections")
#: By the name of a field in COCO: the names that it may have.
FIELDS = {
    "bbox": ("bbox", "bboxes", "box", "boxes"),
    "category_id": (
        *("category", "categories", "category_id", "category_ids", "label", "labels", "class", "classes"),
        *("class_id", "class_label", "classes_id", "name", "names"),
    ),
    "area": ("area", "areas"),
    "iscrowd": ("iscrowd", "is_crowd"),
    "segmentation": ("segmentation", "segmentations", "segments"),
}


@dataclass(frozen=True)
class TableRow:
    """One row before its boxes and classes are known for what they are.

    Args:
        where (`str`): For messages.
        source (`HubImage`): The image.
        width (`int`): Pixels.
        height (`int`): Pixels.
        objects (`list[Annotation]`): By the names of `FIELDS`.
    """

    where: str
    source: HubImage
    width: int
    height: int
    objects: list[Annotation]


def load_hub_objects(
    name: str, config: ObjectDataConfig, unreadable: list[Source] | None = None
) -> tuple[ObjectData, str]:
    """Load a data set of the Hub, or of a folder that `datasets` reads, whose rows have objects.

    Args:
        name (`str`): Its id or folder.
        config (`ObjectDataConfig`): Names columns and splits, and the format of the boxes.
        unreadable (`list`, *optional*): Takes the images that cannot be read, which are left out.

    Returns:
        `tuple[ObjectData, str]`: The data, and the format of its boxes, a key of `BOX_FORMATS`.

    Raises:
        ValueError: If a column is missing, the format cannot be told, or a box or class cannot be; names the row.
    """
    loaded = pick_splits(load_splits(name, config.hub_config, revision=config.hub_revision), config.named_splits())
    first = next(iter(loaded.values()))
    image = find_image_column(first.features, config.image_column)
    column = _objects_column(first.features, config.label_column, name)
    folder = Path(name) if Path(name).is_dir() else None
    rows: dict[str, list[TableRow]] = {}
    for split, table in loaded.items():
        if unreadable is None:
            check_images(undecoded(table, image), image, f"{name} {split}", folder)
        rows[split] = _read_rows(table, image, column, f"{name} {split}", unreadable)
    together = [row for part in rows.values() for row in part]
    boxes = [(item["bbox"], (row.width, row.height)) for row in together for item in row.objects]
    kind = config.box_format or find_box_format([box for box, _ in boxes], [size for _, size in boxes], name)
    names = _class_names(together, _class_feature(first.features[column]), config.class_names, name)
    numbers = {value: number for number, value in enumerate(names)}
    splits = {
        split: [_to_image(row, number, kind, numbers, config.exif_frame) for number, row in enumerate(part, 1)]
        for split, part in rows.items()
    }
    return ObjectData(name, splits, dict(enumerate(names))), kind


def has_objects(features: datasets.Features) -> bool:
    """Whether a table has a column of objects by one of the usual names, with boxes in it."""
    return any(name in features and "bbox" in _by_field(_fields(features[name])) for name in COLUMNS)


def _objects_column(features: datasets.Features, given: str | None, name: str) -> str:
    if given is not None and given not in features:
        raise ValueError(f"label_column is {given!r}; the columns of {name} are {', '.join(features)}.")
    usual = (column for column in COLUMNS if column in features and "bbox" in _by_field(_fields(features[column])))
    found = given or next(usual, None)
    if found is None:
        raise ValueError(
            f"{name} has no column of objects with boxes among {', '.join(features)}; name it with --label_column."
        )
    missing = {"bbox", "category_id"} - set(_by_field(_fields(features[found])))
    if missing:
        raise ValueError(
            f"The column {found!r} of {name} has the fields {', '.join(_fields(features[found])) or 'none'}; boxes "
            f"are in one of {', '.join(FIELDS['bbox'])}, classes in one of {', '.join(FIELDS['category_id'])}."
        )
    return found


def _fields(feature: object) -> dict[str, object]:
    """The fields of a column of objects, be it a list of objects or an object of lists."""
    inner = getattr(feature, "feature", feature)
    return inner if isinstance(inner, dict) else {}


def _by_field(names: Container[str]) -> dict[str, str]:
    """Of the names of `FIELDS`, those that are there, and what they are called."""
    found = {field: next((name for name in usual if name in names), None) for field, usual in FIELDS.items()}
    return {field: name for field, name in found.items() if name is not None}


def _class_feature(column: object) -> object:
    """The feature of one class."""
    fields = _fields(column)
    feature = fields[_by_field(fields)["category_id"]]
    return getattr(feature, "feature", feature)


def _read_rows(
    table: datasets.Dataset, image: str, column: str, name: str, unreadable: list[Source] | None
) -> list[TableRow]:
    sized = {"width", "height"} <= set(table.column_names)
    entries = table.select_columns([column, *(("width", "height") if sized else ())])
    rows = []
    for number, (source, entry) in enumerate(zip(stored_images(table, image), entries, strict=True)):
        where = f"Row {number} of {name}"
        try:
            (width, height), _ = image_size(source(), number)
        except UnreadableImage:
            if unreadable is None:
                raise
            unreadable.append(source)
            continue
        if sized and entry["width"] and entry["height"]:
            width, height = entry["width"], entry["height"]
        rows.append(TableRow(where, source, width, height, _objects(entry[column], where)))
    return rows


def _objects(stored: dict | list | None, where: str) -> list[Annotation]:
    """The objects of a row, a mapping each.

    Raises:
        ValueError: If the lists of an object of lists are not of one length, or a box is none.
    """
    stored = stored or []
    fields = _by_field(stored if isinstance(stored, dict) else stored[0] if stored else {})
    if isinstance(stored, dict):
        lists = {field: stored[name] for field, name in fields.items() if stored[name] is not None}
        lengths = {field: len(values) for field, values in lists.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{count} {fields[field]}" for field, count in lengths.items())
            raise ValueError(f"{where} has {listed}; each object needs one of each.")
        objects = [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
    else:
        objects = [{field: one[name] for field, name in fields.items()} for one in stored]
    for one in objects:
        box = one.get("bbox")
        if not is_box(box):
            raise ValueError(f"{where} has the box {box!r}; it must be four finite numbers. Correct it.")
        if one.get("category_id") is None:
            raise ValueError(f"{where} has an object without a class (null). Give it one, or take it out.")
    return objects


def _class_names(rows: Sequence[TableRow], feature: object, given: Sequence[str], name: str) -> list[str]:
    """Names of the classes: given, stored with the column, or found in it."""
    values = [item["category_id"] for row in rows for item in row.objects]
    column = datasets.Dataset.from_dict({"label": values}, features=datasets.Features({"label": feature}))
    return find_class_names(column, "label", given, f"the objects of {name}")


def _to_image(row: TableRow, number: int, kind: str, numbers: dict[str, int], frame: str | None) -> ObjectImage:
    annotations: list[Annotation] = []
    for box, one in zip(
        to_pixels([item["bbox"] for item in row.objects], kind, row.width, row.height), row.objects, strict=True
    ):
        if box_fault(box, row.width, row.height) == "outside" or min(box[2:]) < 0:
            raise ValueError(
                f"{row.where} has the box {one['bbox']}, which as {kind} lies outside its image of {row.width}x"
                f"{row.height} pixels or is turned inside out. Correct it, or say its format with --box_format "
                f"({', '.join(BOX_FORMATS)})."
            )
        value = one["category_id"]
        label = numbers.get(value) if isinstance(value, str) else value
        if label is None or not 0 <= label < len(numbers):
            raise ValueError(f"{row.where} has the class {value!r}, which is none of {', '.join(numbers)}.")
        kept = {field: one[field] for field in ("area", "segmentation") if one.get(field) is not None}
        crowd = int(bool(one.get("iscrowd")))
        annotations.append({"id": len(annotations) + 1, **kept, "bbox": box, "category_id": label, "iscrowd": crowd})
    image = ObjectImage(number, row.height, row.width, row.source, tuple(annotations), frame)
    try:
        check_entry(image, dict.fromkeys(numbers.values(), ""))
    except ValueError as error:
        raise ValueError(f"{row.where}: {error}") from error
    return image
