"""COCO's json format, read and written (https://cocodataset.org/#format-data)."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mona_peft.finetuning.data.dense.objects import ObjectData, ObjectImage, check_entry
from mona_peft.finetuning.data.folders import DataFolder
from mona_peft.finetuning.data.splits import SPLIT_NAMES

#: Annotation file and image folder of each split in the official layout of 2017.
COCO_2017 = {
    "train": ("annotations/instances_train2017.json", "train2017"),
    "validation": ("annotations/instances_val2017.json", "val2017"),
}


#: The annotation file of Roboflow's export, in the folder of its split.
ROBOFLOW_FILE = "_annotations.coco.json"


def find_coco_layout(root: Path, prefix: str = "instances_") -> dict[str, tuple[str, str]]:
    """Annotation file and image folder of each split of a folder: `annotations/instances_SPLIT.json` and `SPLIT`.

    A split may have a year to its name (`train2017`), and its images may lie in `images/SPLIT` as well.

    Args:
        root (`Path`): The folder.
        prefix (`str`): What a file's name has before that of its split; a file without it is found too.
    """
    layout = {}
    for role, usual in (("train", "train"), ("validation", "val"), ("test", "test")):
        for file in sorted(root.glob(f"annotations/*{usual}*.json")):
            name = file.stem.removeprefix(prefix)
            folder = next((each for each in (name, f"images/{name}") if (root / each).is_dir()), None)
            if folder is not None and role not in layout:
                layout[role] = (f"annotations/{file.name}", folder)
    return layout


def find_roboflow(root: Path) -> dict[str, tuple[str, str]]:
    """The same for Roboflow's export: `SPLIT/_annotations.coco.json`, among the pictures of the split."""
    return {
        role: (f"{name}/{ROBOFLOW_FILE}", name)
        for role, names in SPLIT_NAMES.items()
        for name in names
        if (root / name / ROBOFLOW_FILE).is_file()
    }


def load_roboflow(root: Path, layout: Mapping[str, tuple[str, str]], exif_frame: str | None = None) -> ObjectData:
    """Load Roboflow's export, without the category that only groups the others: it is named as they say their
    supercategory is, and nothing is of it. Raises what [`load_coco`] raises.
    """
    data = _load(root, layout, exif_frame)
    used = {a["category_id"] for images in data.splits.values() for image in images for a in image.annotations}
    groups: set[str] = set()
    for file, _ in layout.values():
        content = json.loads((root / file).read_text(encoding="utf-8"))
        groups |= {str(category.get("supercategory")) for category in content["categories"]} - {"none"}
    kept = {id_: name for id_, name in data.categories.items() if id_ in used or name not in groups}
    return _named_apart(replace(data, categories=kept or data.categories))


def load_coco(
    root: Path, layout: Mapping[str, tuple[str, str]] | None = None, exif_frame: str | None = None
) -> ObjectData:
    """Load a data set in COCO's layout.

    Args:
        root (`Path`): Its folder.
        layout (`Mapping`, *optional*): Annotation file and image folder of each split, inside `root`; the official
            layout of 2017 if left out.
        exif_frame (`str`, *optional*): See `ObjectImage.frame`.

    Raises:
        FileNotFoundError: If an annotation file is missing.
        ValueError: If one is broken, the splits have different categories, or two have one name.
    """
    return _named_apart(_load(root, layout or COCO_2017, exif_frame))


def _load(root: Path, layout: Mapping[str, tuple[str, str]], exif_frame: str | None) -> ObjectData:
    splits, categories = {}, None
    for split, (file, folder) in layout.items():
        splits[split], found = read_instances(root / file, root / folder, exif_frame)
        if categories is not None and found != categories:
            raise ValueError(f"{root / file} has other categories than the split before it.")
        categories = found
    return ObjectData(root.name, splits, categories or {})


def _named_apart(data: ObjectData) -> ObjectData:
    ids: dict[str, int] = {}
    for id_, name in data.categories.items():
        if ids.setdefault(name, id_) != id_:
            raise ValueError(
                f"The categories {ids[name]} and {id_} of {data.name} are both called {name!r}. Name them apart, or "
                "give their annotations one category_id."
            )
    return data


def read_instances(
    file: Path, image_folder: Path, exif_frame: str | None = None
) -> tuple[list[ObjectImage], dict[int, str]]:
    """Read one annotation file: its images, those without objects included, and its categories by id.

    Every annotation is checked, so that none fails when its image comes up in training or evaluation.

    Args:
        file (`Path`): The annotation file.
        image_folder (`Path`): Its images.
        exif_frame (`str`, *optional*): See `ObjectImage.frame`.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is not COCO json, names an image outside the folder, or has an annotation that cannot be.
    """
    if not file.exists():
        raise FileNotFoundError(f"There is no annotation file {file}.")
    if not file.is_file():
        raise ValueError(f"{file} is no file; it must be a COCO instances file.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        categories = {category["id"]: category["name"] for category in sorted(content["categories"], key=_id)}
        annotations = defaultdict(list)
        for annotation in content.get("annotations", []):
            annotations[annotation["image_id"]].append(annotation)
        entries = [(e["id"], e["height"], e["width"], e["file_name"]) for e in sorted(content["images"], key=_id)]
        ids = {id_ for id_, *_ in entries}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is no COCO instances file: {type(error).__name__} {error}.") from error
    for what, found, listed in (("images", ids, entries), ("categories", categories, content["categories"])):
        if len(found) < len(listed):
            raise ValueError(f"{file} has two {what} of one id. Give each its own.")
    stray = [one for image, found in annotations.items() if image not in ids for one in found]
    if stray:
        raise ValueError(
            f"{file} has annotations of images that it does not list, {len(stray)} in all, such as annotation "
            f"{stray[0].get('id')} with the image_id {stray[0]['image_id']!r}. Correct that (a number where the id of "
            "the image is one), or take them out."
        )
    folder = DataFolder(image_folder)
    images = []
    for id_, height, width, name in entries:
        source = folder.file(name, file)
        images.append(ObjectImage(id_, height, width, source, tuple(annotations[id_]), exif_frame))
        try:
            check_entry(images[-1], categories)
        except ValueError as error:
            raise ValueError(f"{file}, image {name!r}: {error}") from error
    return images, categories


def _id(entry: dict[str, Any]) -> int:
    return entry["id"]


def to_coco(images: Sequence[ObjectImage], categories: Mapping[int, str], file_names: Mapping[int, str]) -> dict:
    """COCO json of images and their annotations, which get new ids from 1.

    Args:
        images (`Sequence[ObjectImage]`): The images.
        categories (`Mapping[int, str]`): Names by id.
        file_names (`Mapping[int, str]`): By image id.
    """
    annotations: list[dict] = []
    for image in images:
        for annotation in image.annotations:
            annotations.append({**annotation, "image_id": image.id, "id": len(annotations) + 1})
    return {
        "images": [
            {"id": image.id, "file_name": file_names[image.id], "height": image.height, "width": image.width}
            for image in images
        ],
        "annotations": annotations,
        "categories": [{"id": id_, "name": name} for id_, name in categories.items()],
    }
