"""The layouts of folders of images with label maps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mona_peft.finetuning.data.dense.legend import find_legend
from mona_peft.finetuning.data.dense.segmentation import SegmentationData, find_pairs, load_folders
from mona_peft.finetuning.data.images import Source

from .ade20k import load_hub_segmentation
from .coco import find_coco_layout, find_roboflow, load_roboflow
from .coco_masks import draw_segmentations, load_panoptic, load_stuff
from .config import SegmentationDataConfig
from .hub import pick_splits
from .layouts import Layout
from .object_layouts import find_table


def _find_panoptic(root: Path) -> dict[str, tuple[str, str]]:
    found = find_coco_layout(root, "panoptic_")
    return {split: pair for split, pair in found.items() if (root / pair[0]).with_suffix("").is_dir()}


def _find_stuff(root: Path) -> dict[str, tuple[str, str]]:
    return find_coco_layout(root, "stuff_") or find_coco_layout(root)


def _load_folders(
    root: Path, found: dict[str, tuple[Path, Path]], config: SegmentationDataConfig, bad: list[Source] | None
) -> SegmentationData:
    places = {path for pair in found.values() for path in pair}
    legend = find_legend(root, *sorted(places | {path.parent for path in places}))
    if legend and (config.class_names or config.reduce_zero_label):
        raise ValueError(f"{legend.path} says what the classes are: leave out class_names and reduce_zero_label.")
    if not legend and not config.class_names:
        raise ValueError(
            f"The data set {root} needs --class_names, by label, or a legend such as {root / 'legend.csv'} "
            "(name,r,g,b or name,id)."
        )
    names = legend.names if legend else config.class_names
    pairs = pick_splits(found, config.named_splits())
    return load_folders(root, names, pairs, config.reduce_zero_label, config.exif_frame, legend)


def _load_table(root: Path, found: bool, config: SegmentationDataConfig, bad: list[Source] | None) -> SegmentationData:
    data = load_hub_segmentation(
        str(root),
        named_classes(config, str(root)),
        config.reduce_zero_label,
        config.image_column,
        config.label_column,
        config.exif_frame,
    )
    return replace(data, name=root.name)


def named_classes(config: SegmentationDataConfig, name: str) -> tuple[str, ...]:
    """The class names that the settings give.

    Raises:
        ValueError: If there are none.
    """
    if not config.class_names:
        raise ValueError(
            f"The data set {name} needs --class_names, by label; a copy of ADE20K is --dataset ade20k --hub_id ..."
        )
    return tuple(config.class_names)


def _load_roboflow(
    root: Path, found: Any, config: SegmentationDataConfig, bad: list[Source] | None
) -> SegmentationData:
    return draw_segmentations(load_roboflow(root, found), False, config.exif_frame)


MASK_LAYOUTS = (
    Layout(
        "COCO panoptic",
        "annotations/panoptic_SPLIT.json, a folder of PNGs of that name, and a folder SPLIT of images",
        _find_panoptic,
        lambda root, found, config, bad: load_panoptic(root, found, config.exif_frame),
    ),
    Layout(
        "COCO segmentations",
        "annotations/stuff_SPLIT.json or instances_SPLIT.json, and a folder SPLIT of images",
        _find_stuff,
        lambda root, found, config, bad: load_stuff(root, found, config.exif_frame),
    ),
    Layout(
        "Roboflow's COCO export",
        "SPLIT/_annotations.coco.json among the images of SPLIT",
        find_roboflow,
        _load_roboflow,
    ),
    Layout(
        "images and masks",
        "images/SPLIT with annotations/SPLIT, SPLIT/images with SPLIT/masks, or images with masks",
        find_pairs,
        _load_folders,
        names_classes=False,
        names_splits=True,
    ),
    Layout("a table", "parquet files with columns of images and label maps", find_table, _load_table, False, True),
)
