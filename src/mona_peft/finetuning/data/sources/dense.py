"""Where the data of a dense run comes from, by the names the command line uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from mona_peft.finetuning.data.dense import objects, segmentation
from mona_peft.finetuning.data.dense.objects import ObjectData, ObjectImage
from mona_peft.finetuning.data.dense.segmentation import LabelledImage, SegmentationData
from mona_peft.finetuning.data.embedded.scene_objects import scene_objects
from mona_peft.finetuning.data.images import Source
from mona_peft.finetuning.data.orientation import FRAMES
from mona_peft.finetuning.environment import is_hub_id

from .ade20k import ade20k_names, load_ade20k, load_hub_segmentation, scene_segmentation
from .coco import load_coco
from .config import OBJECT_SETS, SEGMENTATION_SETS, ObjectDataConfig, SegmentationDataConfig, SourceConfig
from .holding_out import split_positions
from .hub import check_source, pick_named, pick_splits
from .hub_objects import load_hub_objects
from .layouts import recognise, say_read, shapes
from .mask_layouts import MASK_LAYOUTS, named_classes
from .object_layouts import OBJECT_LAYOUTS
from .voc_detection import load_voc_detection

DenseData = TypeVar("DenseData", ObjectData, SegmentationData)

ON_THE_HUB = ("hub_id", "hub_config", "hub_revision")
#: Settings of tables.
COLUMNS = ("image_column", "label_column")


def check_frame(frame: str | None) -> None:
    """Check the setting `exif_frame`.

    Raises:
        ValueError: If it is neither left out nor one of `FRAMES`.
    """
    if frame not in (None, *FRAMES):
        raise ValueError(f"exif_frame is {frame!r}; it is {' or '.join(FRAMES)}.")


def load_segmentation(
    config: SegmentationDataConfig, seed: int = 0, unreadable: list[Source] | None = None
) -> SegmentationData:
    """Load the data set that `config` names.

    Args:
        config (`SegmentationDataConfig`): The source.
        seed (`int`): Draws a validation split.
        unreadable (`list`, *optional*): Given to look at faulty data: files may then be missing.

    Raises:
        ValueError: If there is no such data set, or a setting that it needs is missing.
    """
    check_frame(config.exif_frame)
    if config.dataset == "scenes":
        data = pick_named(scene_segmentation(config.sizes(), config.settings()), config)
    elif config.dataset == "ade20k" and not config.hub_id:
        data = load_ade20k(_folder(config), config.exif_frame, config.named_splits())
    elif config.dataset == "folder" or (config.dataset and Path(config.dataset).is_dir() and not config.hub_id):
        data = _label_maps_in(_folder(config) if config.dataset == "folder" else Path(config.dataset), config)
    else:
        data = _from_hub(config)
    if config.skip_bad_images:
        data, bad = segmentation.without_unreadable(data)
        _report(bad)
    if unreadable is None:
        refuse_missing(data)
    return _hold_out(data, config, seed)


def _label_maps_in(root: Path, config: SegmentationDataConfig) -> SegmentationData:
    """A folder in one of the known layouts.

    Raises:
        ValueError: If it is in none.
    """
    recognised = recognise(root, MASK_LAYOUTS)
    if recognised is None:
        raise ValueError(f"{root} is in no known layout: {shapes(MASK_LAYOUTS)}.")
    layout, found = recognised
    _refuse_unread(config, () if layout.has_columns else COLUMNS)
    _refuse_unread(config, ("class_names", "reduce_zero_label") if layout.names_classes else ())
    data = layout.load(root, found, config, None)
    data = data if layout.names_splits else pick_named(data, config)
    name = f"{layout.name} with the legend {data.legend.path.name}" if data.legend else layout.name
    say_read(str(root), name, data.splits, data.class_names, "images")
    return data


def _from_hub(config: SegmentationDataConfig) -> SegmentationData:
    """Label maps on the Hub; those of `--dataset ade20k` have its class names."""
    source = config.hub_id or ("" if config.dataset == "hub" else config.dataset or "")
    if not source:
        raise ValueError("dataset hub needs --hub_id, an id such as user/name.")
    check_source(source, f"a folder, {', '.join(SEGMENTATION_SETS)}, or an id on the Hub")
    is_ade = config.dataset == "ade20k" and not config.class_names
    data = load_hub_segmentation(
        source,
        ade20k_names(Path(source)) if is_ade else named_classes(config, source),
        config.reduce_zero_label or is_ade,
        config.image_column,
        config.label_column,
        exif_frame=config.exif_frame,
        config_name=config.hub_config,
        revision=config.hub_revision,
    )
    return replace(data, splits=pick_splits(data.splits, config.named_splits()))


#: Settings of the data that annotation files of objects decide.
NOT_FOR_OBJECTS = (*ON_THE_HUB, *COLUMNS, "class_names", "box_format")


def load_objects(config: ObjectDataConfig, seed: int = 0, unreadable: list[Source] | None = None) -> ObjectData:
    """Load the data set that `config` names.

    Args:
        config (`ObjectDataConfig`): The source.
        seed (`int`): Draws a validation split.
        unreadable (`list`, *optional*): Given to look at faulty data: takes the images of which not even the size can
            be read, which are left out, and files may be missing.

    Raises:
        FileNotFoundError: If an image is missing.
        ValueError: If there is no such data set, or a setting that it needs is missing.
    """
    check_frame(config.exif_frame)
    bad: list[Source] | None = [] if config.skip_bad_images else unreadable
    if config.dataset in OBJECT_SETS:
        _refuse_unread(config, NOT_FOR_OBJECTS)
        data = _objects_by_name(config)
    elif config.dataset and Path(config.dataset).is_dir() and not config.hub_id:
        data = _objects_in(Path(config.dataset), config, bad)
    else:
        data = _objects_of_the_hub(config, bad)
    if config.skip_bad_images:
        data, broken = objects.without_unreadable(data)
        _report([*(bad or ()), *broken])
    if unreadable is None:
        refuse_missing(data)
    return _hold_out(pick_named(data, config), config, seed)


def _objects_by_name(config: ObjectDataConfig) -> ObjectData:
    if config.dataset == "scenes":
        return scene_objects(config.sizes(), config.settings())
    if config.dataset == "coco":
        return load_coco(_folder(config), _coco_layout(config), config.exif_frame)
    return load_voc_detection(_folder(config), exif_frame=config.exif_frame)


def _objects_in(root: Path, config: ObjectDataConfig, bad: list[Source] | None) -> ObjectData:
    """A folder in one of the known layouts, or with annotation files that the settings name.

    Raises:
        ValueError: If it is in none.
    """
    named = _coco_layout(config)
    recognised = None if named else recognise(root, OBJECT_LAYOUTS)
    if named:
        _refuse_unread(config, NOT_FOR_OBJECTS)
        return load_coco(root, named, config.exif_frame)
    if recognised is None:
        raise ValueError(
            f"{root} is in no known layout: {shapes(OBJECT_LAYOUTS)}. Or name COCO's files: --train_annotations FILE "
            "--train_images FOLDER."
        )
    layout, found = recognised
    _refuse_unread(config, () if layout.has_columns else (*ON_THE_HUB, *COLUMNS, "box_format"))
    _refuse_unread(config, ("class_names",) if layout.names_classes else ())
    data = layout.load(root, found, config, bad)
    say_read(str(root), layout.name, data.splits, data.class_names, "images")
    return data


def _objects_of_the_hub(config: ObjectDataConfig, bad: list[Source] | None) -> ObjectData:
    source = config.hub_id or config.dataset or ""
    if not config.hub_id and not is_hub_id(source):
        place = f"There is no folder {source}. " if source else ""
        raise ValueError(
            f"{place}--dataset is a folder in a known layout, one of {', '.join(OBJECT_SETS)}, or an id on the Hub "
            "such as user/name."
        )
    data, kind = load_hub_objects(source, config, bad)
    say_read(source, f"a table of objects, boxes in the format {kind}", data.splits, data.class_names, "images")
    return data


def _refuse_unread(config: SourceConfig, names: Sequence[str]) -> None:
    """Refuse settings that nothing of this data set would heed."""
    unread = [name for name in names if getattr(config, name)]
    if unread:
        raise ValueError(f"{config.dataset} is read from files that name everything: leave out {', '.join(unread)}.")


def refuse_missing(data: ObjectData | SegmentationData) -> None:
    """Refuse a data set of which a file is missing, before it is trained on.

    Raises:
        FileNotFoundError: If one is missing; the message names it.
    """
    for split, samples in data.splits.items():
        files = (getattr(part, "path", part) for sample in samples for part in _sources(sample))
        missing = [path for path in files if isinstance(path, Path) and not path.exists()]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} files of {data.name} {split} are missing, such as {missing[0]}. Add them, take them "
                "out of the annotations, or pass --skip_bad_images."
            )


def _sources(sample: ObjectImage | LabelledImage) -> tuple[Source, ...]:
    return (sample.source,) if isinstance(sample, ObjectImage) else (sample.image, sample.label_map)


def _hold_out(data: DenseData, config: SourceConfig, seed: int) -> DenseData:
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


def _folder(config: SourceConfig) -> Path:
    if not config.data_dir:
        raise ValueError(f"dataset {config.dataset} needs --data_dir, the folder it is unpacked in.")
    return Path(config.data_dir)


def _report(bad: Sequence[Source]) -> None:
    """Say which files were left out."""
    print(f"{len(bad)} unreadable files left out" + "".join(f"\n  {path}" for path in bad))
