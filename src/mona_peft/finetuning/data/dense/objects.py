"""Images with objects: one shape for COCO, VOC and the embedded scenes.

Annotations stay as COCO writes them (https://cocodataset.org/#format-data), so that evaluation sees what COCO's own
tools would see; [`training_targets`] says which of them train.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from mona_peft.finetuning.data.fingerprint import digest, source_name
from mona_peft.finetuning.data.images import Source, is_readable, open_turned, stored_in, to_rgb
from mona_peft.finetuning.data.orientation import TURNS, remaining_turn, turn_box

from .boxes import is_box
from .masks import (
    Annotation,
    check_segmentation,
    encode_segmentation,
    mask_area,
    segmentation_parts,
    turn_segmentation,
)


@dataclass(frozen=True)
class ObjectImage:
    """An image and what is annotated on it.

    Args:
        id (`int`): Unique in its split.
        height (`int`): Pixels.
        width (`int`): Pixels.
        source (`Path` or `Callable`): A file, or what gives the stored image.
        annotations (`tuple[Annotation, ...]`): COCO annotations: `bbox` as x, y, width, height; `category_id`; `area`;
            `iscrowd`; `segmentation` where there are masks; `difficult` in VOC.
        frame (`str`, *optional*): Whether the annotations are for the image as it is `stored` or `upright`, where EXIF
            data turn it; told by its size if left out.
    """

    id: int
    height: int
    width: int
    source: Source
    annotations: tuple[Annotation, ...] = ()
    frame: str | None = None

    def open(self) -> tuple[Image.Image, int]:
        """The upright RGB image, and the EXIF orientation by which the annotations have to turn with it (1: none).

        Raises:
            ValueError: If the file cannot be read, its size is not the annotated one, or EXIF data turn it and nothing
                tells whether its annotations are already turned.
        """
        image, orientation = open_turned(*stored_in(self.source))
        size = (self.width, self.height)
        nothing_to_turn = not self.annotations and size == image.size
        frame = "upright" if nothing_to_turn else self.frame
        turn = remaining_turn(orientation, image.size, size, frame, str(self.source))
        return to_rgb(image), turn

    def load(self) -> tuple[Image.Image, ObjectImage]:
        """The upright RGB image, and this entry with its annotations turned with it; raises what [`open`] raises."""
        image, turn = self.open()
        return image, self.turned(turn)

    def read(self) -> Image.Image:
        """The upright RGB image; raises what [`open`] raises."""
        return self.load()[0]

    def turned(self, orientation: int) -> ObjectImage:
        """The same entry for the upright image, if its annotations are for the stored one.

        Args:
            orientation (`int`): Of the EXIF data; 1 for an image that is not turned.
        """
        if orientation == 1:
            return self
        annotations = []
        for annotation in self.annotations:
            box = turn_box(annotation["bbox"], orientation, self.width, self.height)
            turned = {**annotation, "bbox": box}
            if annotation.get("segmentation"):
                turned["segmentation"] = turn_segmentation(annotation, orientation, self.height, self.width)
            annotations.append(turned)
        height, width = (self.width, self.height) if TURNS[orientation][0] else (self.height, self.width)
        return replace(self, height=height, width=width, annotations=tuple(annotations), frame="upright")


def measured(image: ObjectImage, with_masks: bool) -> ObjectImage:
    """The entry as COCO's tools can measure it: every annotation with an area, masks as RLE of the image's size.

    Objects marked `difficult`, of which those tools know nothing, are crowds: they need not be found, as they do not
    train.

    Args:
        image (`ObjectImage`): The entry.
        with_masks (`bool`): Whether masks are measured; if not, they are left out.

    Raises:
        ValueError: If an annotation has no mask where one is wanted, or a broken one.
    """
    annotations = []
    for annotation in image.annotations:
        entry = {name: value for name, value in annotation.items() if name != "segmentation"}
        entry["iscrowd"] = int(bool(annotation.get("iscrowd") or annotation.get("difficult")))
        if with_masks:
            entry["segmentation"] = encode_segmentation(annotation, image.height, image.width)
        if "area" not in entry:
            entry["area"] = mask_area(entry["segmentation"]) if with_masks else math.prod(annotation["bbox"][2:])
        annotations.append(entry)
    return replace(image, annotations=tuple(annotations))


@dataclass(frozen=True)
class ObjectData:
    """Splits of a data set of objects.

    Args:
        name (`str`): What to call it.
        splits (`Mapping[str, Sequence[ObjectImage]]`): `train`, and `validation` or `test` where there are such.
        categories (`Mapping[int, str]`): Name of each category id, in the order of the labels 0, 1, ...
    """

    name: str
    splits: Mapping[str, Sequence[ObjectImage]]
    categories: Mapping[int, str]

    def fingerprint(self) -> str:
        """Hash of the categories, and of every image's file name, size, boxes and their categories."""
        parts: list[object] = [tuple(self.categories.items())]
        for name, images in sorted(self.splits.items()):
            parts.append(name)
            for image in images:
                objects = [(a["category_id"], *a["bbox"]) for a in image.annotations]
                parts.append((image.id, image.height, image.width, source_name(image.source), objects))
        return digest(parts)

    def annotation_fingerprint(self) -> str:
        """Hash of what else is annotated: masks, areas, crowds, difficult objects, and the frame of turned images."""
        return digest(self._annotation_parts())

    def _annotation_parts(self) -> Iterator[object]:
        for _, images in sorted(self.splits.items()):
            for image in images:
                yield image.frame
                for entry in image.annotations:
                    yield entry.get("area"), bool(entry.get("iscrowd")), bool(entry.get("difficult"))
                    yield from segmentation_parts(entry.get("segmentation"))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by label."""
        return tuple(self.categories.values())

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Category ids by label."""
        return tuple(self.categories)


def check_entry(image: ObjectImage, categories: Mapping[int, str]) -> None:
    """Check what training and evaluation will read of an entry.

    Args:
        image (`ObjectImage`): The entry; its file is not opened.
        categories (`Mapping[int, str]`): The known categories, by id.

    Raises:
        ValueError: If a size, id, box, category, area or segmentation cannot be.
    """
    for name in ("id", "height", "width"):
        value = getattr(image, name)
        if type(value) is not int or value < (0 if name == "id" else 1):
            raise ValueError(f"its {name} is {value!r}, which must be a whole number. Correct it.")
    for annotation in image.annotations:
        box, area = annotation.get("bbox"), annotation.get("area", 0)
        if not is_box(box) or min(box[2:]) < 0:
            raise ValueError(
                f"annotation {annotation.get('id')} has the bbox {box!r}; it must be x, y, width and height, finite "
                "and none of the last two negative. Correct or remove it."
            )
        if not isinstance(area, int | float) or not math.isfinite(area):
            raise ValueError(f"annotation {annotation.get('id')} has the area {area!r}. Correct it.")
        if annotation.get("category_id") not in categories:
            raise ValueError(
                f"annotation {annotation.get('id')} has the category {annotation.get('category_id')!r}, which is "
                f"unknown; known are {', '.join(map(str, categories))}."
            )
        if annotation.get("segmentation"):
            check_segmentation(annotation, image.height, image.width)


def require_masks(data: ObjectData) -> None:
    """Check that every object has a segmentation, before anything is trained on them.

    Raises:
        ValueError: If one has none; the message names its image.
    """
    for split, images in data.splits.items():
        for image in images:
            for annotation in image.annotations:
                if annotation.get("segmentation") is None:
                    raise ValueError(
                        f"Annotation {annotation.get('id')} of {image.source} ({split}) has no segmentation (polygons "
                        "or RLE); instance segmentation needs one, detection does not."
                    )


def without_unreadable(data: ObjectData) -> tuple[ObjectData, list[Source]]:
    """Leave out the images that cannot be read, and list them."""
    bad: list[Source] = []
    splits = {}
    for split, images in data.splits.items():
        kept = []
        for image in images:
            if is_readable(image.source):
                kept.append(image)
            else:
                bad.append(image.source)
        splits[split] = kept
    return replace(data, splits=splits), bad
