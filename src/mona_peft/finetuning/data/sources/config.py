"""Settings of the data sources, the same in every task. Free of heavy imports: a command line is explained at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mona_peft.finetuning.settings import Settings, option

from .sizes import OFFICIAL_SIZES

if TYPE_CHECKING:
    from mona_peft.finetuning.data.embedded.scenes import SceneSettings

PRESET_NAMES = tuple(name for name in OFFICIAL_SIZES if name != "ade20k")
SEGMENTATION_SETS = ("ade20k", "scenes", "folder", "hub")
OBJECT_SETS = ("coco", "voc0712", "scenes")
#: Data sets that go by a name, whose official splits stay as they are unless something else is asked for.
NAMED_SETS = {*PRESET_NAMES, *SEGMENTATION_SETS, *OBJECT_SETS, "digits"} - {"folder", "hub"}
BOX_FORMAT_NAMES = ("coco", "pascal_voc", "yolo", "albumentations")
EXIF_HELP = (
    "Frame of the annotations of images that EXIF data turn: stored or upright. Needed only where their size does not "
    "tell, as for square images."
)


@dataclass
class SourceConfig(Settings):
    """Where the images come from."""

    dataset: str | None = option(None, "A name, a folder, or an id on the Hub.")
    data_dir: str | None = option(None, "Folder with the official archives of a data set that goes by name, unpacked.")
    hub_id: str | None = option(None, "Take the data set from this id on the Hub instead of its usual place.")
    hub_config: str | None = option(None, "Configuration of the data set on the Hub.")
    hub_revision: str | None = option(None, "Branch or commit of the data set on the Hub.")
    image_column: str | None = option(None, "Column of the images; found if unset.")
    label_column: str | None = option(None, "Column of the labels; found if unset.")
    class_names: list[str] = option([], "Names of the classes, where the data has none.")
    train_split: str | None = option(None, "Name of the training split; found if unset.")
    validation_split: str | None = option(None, "Name of the validation split; found if unset.")
    test_split: str | None = option(None, "Name of the test split; found if unset.")
    validation_fraction: float = option(
        0.0, "Share of the training images to validate on, where there is no validation split.", least=0, below=1
    )
    skip_bad_images: bool = option(False, "Leave out images that cannot be read, after trying all of them.")

    def __post_init__(self) -> None:
        """Check that the classes are named apart."""
        super().__post_init__()
        twice = next((name for name, count in Counter(self.class_names).items() if count > 1), None)
        if twice is not None:
            raise ValueError(f"The class name {twice!r} comes twice; give each class its own with --class_names.")

    def named_splits(self) -> dict[str, str | None]:
        """By role, the split's own name; `None` where it is to be found."""
        return {"train": self.train_split, "validation": self.validation_split, "test": self.test_split}


@dataclass
class DataConfig(SourceConfig):
    """Where the images come from, and what is special about images with labels."""

    dataset: str | None = option(
        None,
        f"A folder of folders named by class, of parquet or tar files; CSV or JSON lines; {', '.join(PRESET_NAMES)}, "
        "digits, or an id on the Hub.",
    )
    download: bool = option(False, "Download the official archives of a preset into data_dir with torchvision.")
    voc_labels: str = option(
        "multi",
        "VOC2007: multi (20 labels an image) or single (largest object not difficult).",
        choices=("multi", "single"),
    )
    shots: int | None = option(
        None, "Train on this many images a class, drawn by the seed; all if unset, 8 scans of the digits.", least=1
    )
    streaming: bool = option(False, "Read the training split as a stream, sharded by process.")
    shuffle_buffer: int = option(1000, "Samples among which a stream is shuffled.", least=1)

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        super().__post_init__()
        if self.download and not self.data_dir:
            raise ValueError("--download needs --data_dir, where the archives go.")


@dataclass
class DenseDataConfig(SourceConfig):
    """Where images with annotations come from; the embedded scenes, where they are the data set."""

    exif_frame: str | None = option(None, EXIF_HELP)
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
        from mona_peft.finetuning.data.embedded.scenes import SceneSettings

        return SceneSettings(size=self.scene_size)


@dataclass
class SegmentationDataConfig(DenseDataConfig):
    """Where images and label maps come from."""

    dataset: str | None = option(
        None,
        "A folder of images and masks (images/SPLIT and annotations/SPLIT, or masks), COCO panoptic or stuff, ade20k, "
        "scenes, or an id on the Hub.",
    )
    reduce_zero_label: bool = option(False, "0 in the label maps means no class, 1 the first class (for folders).")


@dataclass
class ObjectDataConfig(DenseDataConfig):
    """Where images and their objects come from."""

    dataset: str | None = option(
        None,
        "A folder in COCO's, Roboflow's, YOLO's or VOC's layout, coco, voc0712, scenes, or an id on the Hub whose "
        "rows have an image and its objects.",
    )
    box_format: str | None = option(
        None,
        "Boxes of Hub data: coco (x, y, width, height), pascal_voc (corners), or in shares yolo (centre and size) or "
        "albumentations (corners); found if unset.",
        choices=BOX_FORMAT_NAMES,
    )
    train_annotations: str | None = option(None, "Other annotation file of coco, inside data_dir.")
    train_images: str | None = option(None, "Its image folder.")
    validation_annotations: str | None = option(None, "Other annotation file to validate on.")
    validation_images: str | None = option(None, "Its image folder.")
    test_annotations: str | None = option(None, "Other annotation file to test on.")
    test_images: str | None = option(None, "Its image folder.")
