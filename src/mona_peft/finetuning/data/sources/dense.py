"""Where the data of a dense run comes from, by the names the command line uses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mona_peft.finetuning.data.dense import objects, segmentation
from mona_peft.finetuning.data.dense.objects import ObjectData
from mona_peft.finetuning.data.dense.segmentation import SegmentationData, load_folders
from mona_peft.finetuning.data.embedded.scene_objects import scene_objects
from mona_peft.finetuning.data.embedded.scenes import SceneSettings
from mona_peft.finetuning.settings import Settings, option

from .ade20k import ade20k_names, load_ade20k, load_hub_segmentation, scene_segmentation
from .coco import load_coco
from .voc_detection import load_voc_detection

SEGMENTATION_SETS = ("ade20k", "folder", "hub", "scenes")
OBJECT_SETS = ("coco", "voc0712", "scenes")


@dataclass
class SceneConfig(Settings):
    """The embedded scenes, where they are the data set."""

    scene_size: int = option(96, "Side of the embedded scenes, pixels.", least=1)
    train_scenes: int = option(200, "Embedded scenes to train on.", least=0)
    validation_scenes: int = option(50, "Embedded scenes to validate on.", least=0)
    test_scenes: int = option(100, "Embedded scenes to test on.", least=0)

    def sizes(self) -> dict[str, int]:
        """Scenes of each split that has any."""
        counts = {"train": self.train_scenes, "validation": self.validation_scenes, "test": self.test_scenes}
        return {split: count for split, count in counts.items() if count}

    def settings(self) -> SceneSettings:
        """What the scenes look like."""
        return SceneSettings(size=self.scene_size)


@dataclass
class SegmentationDataConfig(SceneConfig):
    """Where images and label maps come from."""

    dataset: str | None = option(None, f"One of {', '.join(SEGMENTATION_SETS)}; the demo if unset.")
    data_dir: str | None = option(None, "Folder of ade20k or folder: images/SPLIT and annotations/SPLIT in it.")
    hub_dataset: str | None = option(None, "Id on the Hub, for hub; its label maps count as ADE20K's unless told.")
    class_names: list[str] = option([], "Names by label, for folder and hub; ADE20K's 150 if unset for hub.")
    reduce_zero_label: bool = option(False, "0 in the label maps means no class, 1 the first class (for folder).")
    image_column: str = option("image", "Column of the images, for hub.")
    label_column: str = option("annotation", "Column of the label maps, for hub.")
    skip_bad_images: bool = option(False, "Leave out files that cannot be read, and list them.")


@dataclass
class ObjectDataConfig(SceneConfig):
    """Where images and their objects come from."""

    dataset: str | None = option(None, f"One of {', '.join(OBJECT_SETS)}; the demo if unset.")
    data_dir: str | None = option(None, "Folder of coco (annotations/, train2017/, val2017/) or voc0712 (VOCdevkit/).")
    train_annotations: str | None = option(None, "Other annotation file of coco, inside data_dir.")
    train_images: str | None = option(None, "Its image folder.")
    validation_annotations: str | None = option(None, "Other annotation file to validate on.")
    validation_images: str | None = option(None, "Its image folder.")
    skip_bad_images: bool = option(False, "Leave out files that cannot be read, and list them.")


def load_segmentation(config: SegmentationDataConfig) -> SegmentationData:
    """Load the data set that `config` names.

    Raises:
        `ValueError`: if there is no such data set, or a setting that it needs is missing.
    """
    if config.dataset == "scenes":
        data = scene_segmentation(config.sizes(), config.settings())
    elif config.dataset == "ade20k":
        data = load_ade20k(_folder(config))
    elif config.dataset == "folder":
        if not config.class_names:
            raise ValueError("dataset folder needs --class_names, by label.")
        data = load_folders(_folder(config), config.class_names, config.reduce_zero_label)
    elif config.dataset == "hub":
        if not config.hub_dataset:
            raise ValueError("dataset hub needs --hub_dataset, an id such as user/name.")
        names = tuple(config.class_names) or ade20k_names(Path(config.hub_dataset))
        reduce_zero = config.reduce_zero_label or not config.class_names
        data = load_hub_segmentation(config.hub_dataset, names, reduce_zero, config.image_column, config.label_column)
    else:
        raise ValueError(f"Unknown dataset {config.dataset!r}; choose one of {', '.join(SEGMENTATION_SETS)}.")
    if config.skip_bad_images:
        data, bad = segmentation.without_unreadable(data)
        _report(bad)
    return data


def load_objects(config: ObjectDataConfig) -> ObjectData:
    """Load the data set that `config` names.

    Raises:
        `ValueError`: if there is no such data set, or a setting that it needs is missing.
    """
    if config.dataset == "scenes":
        data = scene_objects(config.sizes(), config.settings())
    elif config.dataset == "coco":
        data = load_coco(_folder(config), _coco_layout(config))
    elif config.dataset == "voc0712":
        data = load_voc_detection(_folder(config))
    else:
        raise ValueError(f"Unknown dataset {config.dataset!r}; choose one of {', '.join(OBJECT_SETS)}.")
    if config.skip_bad_images:
        data, bad = objects.without_unreadable(data)
        _report(bad)
    return data


def _coco_layout(config: ObjectDataConfig) -> dict[str, tuple[str, str]] | None:
    layout = {}
    for split, file, folder in (
        ("train", config.train_annotations, config.train_images),
        ("validation", config.validation_annotations, config.validation_images),
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
