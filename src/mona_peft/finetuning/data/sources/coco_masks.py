"""COCO's panoptic, stuff and instance annotations as label maps for semantic segmentation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mona_peft.finetuning.data.dense.masks import decode_mask
from mona_peft.finetuning.data.dense.objects import ObjectData, ObjectImage
from mona_peft.finetuning.data.dense.segmentation import LabelledImage, SegmentationData
from mona_peft.finetuning.data.folders import DataFolder
from mona_peft.finetuning.data.images import IGNORED, open_image

from .coco import load_coco

BACKGROUND = "background"


@dataclass(frozen=True)
class PanopticMap:
    """The label map of a panoptic PNG, whose colours are the ids of segments.

    Args:
        path (`Path`): The PNG.
        segments (`Mapping[int, int]`): Label of each segment id; other pixels have none.
    """

    path: Path
    segments: Mapping[int, int]

    def __call__(self) -> Image.Image:
        """Class numbers, 255 where there is none.

        Raises:
            ValueError: If the file cannot be read, or has a segment that its annotations do not name.
        """
        colours = np.asarray(open_image(self.path).convert("RGB")).astype(np.int64)
        ids = colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]
        labels = np.full(ids.shape, IGNORED, np.uint8)
        for segment in np.unique(ids).tolist():
            if segment in self.segments:
                labels[ids == segment] = self.segments[segment]
            elif segment:
                raise ValueError(f"{self.path} has the segment {segment}, which its segments_info does not name.")
        return Image.fromarray(labels)

    def __str__(self) -> str:
        return self.path.name


@dataclass(frozen=True)
class DrawnMap:
    """The label map of an image's segmentations, drawn in their order.

    Args:
        image (`ObjectImage`): With its annotations.
        labels (`Mapping[int, int]`): By category id.
        elsewhere (`int`): Label of pixels in no segmentation.
    """

    image: ObjectImage
    labels: Mapping[int, int]
    elsewhere: int

    def __call__(self) -> Image.Image:
        """Class numbers; raises what [`decode_mask`] raises."""
        labels = np.full((self.image.height, self.image.width), self.elsewhere, np.uint8)
        for annotation in self.image.annotations:
            mask = decode_mask(annotation, self.image.height, self.image.width)
            labels[mask.astype(bool)] = self.labels[annotation["category_id"]]
        return Image.fromarray(labels)

    def __str__(self) -> str:
        return f"segmentations of image {self.image.id}"


def load_panoptic(
    root: Path, layout: Mapping[str, tuple[str, str]], exif_frame: str | None = None
) -> SegmentationData:
    """Load COCO's panoptic layout: a JSON file a split, a folder of PNGs of the same name, and the images.

    Args:
        root (`Path`): The folder.
        layout (`Mapping`): Annotation file and image folder of each split.
        exif_frame (`str`, *optional*): See `SegmentationData`.

    Raises:
        ValueError: If an annotation file is broken, or the splits have different categories.
    """
    splits, categories = {}, None
    for split, (file, folder) in layout.items():
        found, splits[split] = _read_panoptic(root / file, root / folder)
        if categories not in (None, found):
            raise ValueError(f"{root / file} has other categories than the split before it.")
        categories = found
    return SegmentationData(root.name, splits, tuple((categories or {}).values()), exif_frame=exif_frame)


def _read_panoptic(file: Path, folder: Path) -> tuple[dict[int, str], list[LabelledImage]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        categories = {one["id"]: str(one["name"]) for one in sorted(content["categories"], key=lambda one: one["id"])}
        labels = {id_: label for label, id_ in enumerate(categories)}
        names = {one["id"]: one["file_name"] for one in content["images"]}
        entries = [
            (names[one["image_id"]], one["file_name"], [(s["id"], s["category_id"]) for s in one["segments_info"]])
            for one in content["annotations"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is no COCO panoptic file: {type(error).__name__} {error}.") from error
    images, maps = DataFolder(folder), DataFolder(file.with_suffix(""))
    samples = []
    for image, png, segments in entries:
        unknown = next((category for _, category in segments if category not in labels), None)
        if unknown is not None:
            raise ValueError(f"{file}, image {image!r}: a segment has the category {unknown!r}, which is unknown.")
        known = {id_: labels[category] for id_, category in segments}
        samples.append(LabelledImage(images.file(image, file), PanopticMap(maps.file(png, file), known)))
    return categories, samples


def draw_segmentations(data: ObjectData, covered: bool, exif_frame: str | None = None) -> SegmentationData:
    """Objects with segmentations as label maps.

    Args:
        data (`ObjectData`): The objects.
        covered (`bool`): Whether the segmentations are meant to cover the images, as COCO's stuff does: pixels in none
            do not count. Otherwise they are the first class, the background.
        exif_frame (`str`, *optional*): See `SegmentationData`.
    """
    names = data.class_names if covered else (BACKGROUND, *data.class_names)
    labels = {id_: names.index(name) for id_, name in data.categories.items()}
    elsewhere = IGNORED if covered else 0
    splits = {
        split: [LabelledImage(image.source, DrawnMap(image, labels, elsewhere)) for image in images]
        for split, images in data.splits.items()
    }
    return SegmentationData(data.name, splits, names, exif_frame=exif_frame)


def load_stuff(root: Path, found: dict[str, tuple[str, str]], exif_frame: str | None = None) -> SegmentationData:
    """Load a COCO stuff or instances layout as label maps; raises what [`load_coco`] raises."""
    covered = all(Path(file).stem.startswith("stuff_") for file, _ in found.values())
    return draw_segmentations(load_coco(root, found), covered, exif_frame)
