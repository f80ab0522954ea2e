"""Where the data of a dense run comes from, by the names the command line uses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mona_peft.finetuning.data.dense import objects, segmentation
from mona_peft.finetuning.data.dense.objects import ObjectData
from mona_peft.finetuning.data.dense.segmentation import SegmentationData, load_folders
from mona_peft.finetuning.data.embedded.scene_objects import scene_objects
from mona_peft.finetuning.data.orientation import FRAMES

from .ade20k import ade20k_names, find_split_folders, load_ade20k, load_hub_segmentation, scene_segmentation
from .coco import find_coco_layout, load_coco
from .config import OBJECT_SETS, SEGMENTATION_SETS, ObjectDataConfig, SegmentationDataConfig, SourceConfig
from .holding_out import split_positions
from .hub import check_source, pick_named, pick_splits
from .voc_detection import load_voc_detection


def check_frame(frame: str | None) -> None:
    """Check the setting `exif_frame`.

    Raises:
        ValueError: If it is neither left out nor one of `FRAMES`.
    """
    if frame not in (None, *FRAMES):
        raise ValueError(f"exif_frame is {frame!r}; it is {' or '.join(FRAMES)}.")


def load_segmentation(config: SegmentationDataConfig, seed: int = 0) -> SegmentationData:
    """Load the data set that `config` names.

    Args:
        config (`SegmentationDataConfig`): The source.
        seed (`int`): Draws a validation split.

    Raises:
        ValueError: If there is no such data set, or a setting that it needs is missing.
    """
    check_frame(config.exif_frame)
    if config.dataset == "scenes":
        data = pick_named(scene_segmentation(config.sizes(), config.settings()), config)
    elif config.dataset == "ade20k" and not config.hub_id:
        data = load_ade20k(_folder(config), config.exif_frame, config.named_splits())
    elif config.dataset == "folder" or (config.dataset and Path(config.dataset).is_dir() and not config.hub_id):
        if not config.class_names:
            raise ValueError(f"The data set {config.dataset} needs --class_names, by label.")
        root = _folder(config) if config.dataset == "folder" else Path(config.dataset)
        folders = find_split_folders(root, config.named_splits())
        data = load_folders(root, config.class_names, config.reduce_zero_label, config.exif_frame, folders)
    else:
        data = _from_hub(config)
    if config.skip_bad_images:
        data, bad = segmentation.without_unreadable(data)
        _report(bad)
    return _hold_out(data, config, seed)


def _from_hub(config: SegmentationDataConfig) -> SegmentationData:
    """Label maps on the Hub; without class names they count as ADE20K's."""
    source = config.hub_id or ("" if config.dataset == "hub" else config.dataset or "")
    if not source:
        raise ValueError("dataset hub needs --hub_id, an id such as user/name.")
    check_source(source, f"a folder, {', '.join(SEGMENTATION_SETS)}, or an id on the Hub")
    names = tuple(config.class_names) or ade20k_names(Path(source))
    data = load_hub_segmentation(
        source,
        names,
        config.reduce_zero_label or not config.class_names,
        config.image_column or "image",
        config.label_column or "annotation",
        exif_frame=config.exif_frame,
        config_name=config.hub_config,
        revision=config.hub_revision,
    )
    return replace(data, splits=pick_splits(data.splits, config.named_splits()))


#: Settings of the data that annotation files of objects decide.
NOT_FOR_OBJECTS = ("hub_id", "hub_config", "hub_revision", "image_column", "label_column", "class_names")


def load_objects(config: ObjectDataConfig, seed: int = 0) -> ObjectData:
    """Load the data set that `config` names.

    Args:
        config (`ObjectDataConfig`): The source.
        seed (`int`): Draws a validation split.

    Raises:
        ValueError: If there is no such data set, or a setting that it needs is missing.
    """
    check_frame(config.exif_frame)
    unread = [name for name in NOT_FOR_OBJECTS if getattr(config, name)]
    if unread:
        raise ValueError(
            f"Objects are read from folders in COCO's or VOC's layout, whose files name everything: leave out "
            f"{', '.join(unread)}."
        )
    if config.dataset == "scenes":
        data = scene_objects(config.sizes(), config.settings())
    elif config.dataset == "coco":
        data = load_coco(_folder(config), _coco_layout(config), config.exif_frame)
    elif config.dataset == "voc0712":
        data = load_voc_detection(_folder(config), exif_frame=config.exif_frame)
    elif config.dataset and Path(config.dataset).is_dir():
        data = _objects_in(Path(config.dataset), config)
    else:
        place = f"There is no folder {config.dataset}. " if config.dataset else ""
        raise ValueError(
            f"{place}--dataset is a folder in COCO's or VOC's layout, or one of {', '.join(OBJECT_SETS)}."
        )
    if config.skip_bad_images:
        data, bad = objects.without_unreadable(data)
        _report(bad)
    return _hold_out(pick_named(data, config), config, seed)


def _objects_in(root: Path, config: ObjectDataConfig) -> ObjectData:
    """A folder in VOC's layout, or in COCO's: annotation files named, or found by the name of their split.

    Raises:
        ValueError: If it is neither.
    """
    if any((folder / "Annotations").is_dir() for folder in (*root.glob("VOC20*"), *root.glob("VOCdevkit/VOC20*"))):
        return load_voc_detection(root, exif_frame=config.exif_frame)
    layout = _coco_layout(config) or find_coco_layout(root)
    if not layout:
        raise ValueError(
            f"{root} is neither in COCO's layout (annotations/instances_SPLIT.json and a folder SPLIT of images) nor "
            "in VOC's (VOC2007/Annotations). Name its files: --train_annotations FILE --train_images FOLDER."
        )
    return load_coco(root, layout, config.exif_frame)


def _hold_out(data: Any, config: SourceConfig, seed: int) -> Any:
    """The data set with a validation split cut off the training split, where it has none and that was asked for."""
    if "validation" in data.splits or "train" not in data.splits or not config.validation_fraction:
        return data
    train = data.splits["train"]
    kept, held = split_positions([0] * len(train), config.validation_fraction, seed)
    parts = {"train": [train[row] for row in kept], "validation": [train[row] for row in held]}
    return replace(data, splits={**data.splits, **parts})


def _coco_layout(config: ObjectDataConfig) -> dict[str, tuple[str, str]] | None:
    layout = {}
    for split, file, folder in (
        ("train", config.train_annotations, config.train_images),
        ("validation", config.validation_annotations, config.validation_images),
        ("test", config.test_annotations, config.test_images),
    ):
        if (file is None) != (folder is None):
            raise ValueError(f"Give both {split}_annotations and {split}_images, or neither.")
        if file is not None and folder is not None:
            layout[split] = (file, folder)
    return layout or None


def _folder(config: Any) -> Path:
    if not config.data_dir:
        raise ValueError(f"dataset {config.dataset} needs --data_dir, the folder it is unpacked in.")
    return Path(config.data_dir)


def _report(bad: list[Path]) -> None:
    """Say which files were left out."""
    print(f"{len(bad)} unreadable files left out" + "".join(f"\n  {path}" for path in bad))
