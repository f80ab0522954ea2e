"""Folders with VOC's annotations and classes of their own, as labelling tools and Roboflow write them.

One XML file a picture: in `Annotations/` with the pictures in `JPEGImages/`, and `ImageSets/Main/` where there are
splits; or among the pictures of `SPLIT/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mona_peft.finetuning.data.dense.objects import ObjectData, ObjectImage
from mona_peft.finetuning.data.folders import DataFolder
from mona_peft.finetuning.data.images import IMAGE_SUFFIXES, Source, UnreadableImage, image_size, warn_of_skipped
from mona_peft.finetuning.data.splits import SPLIT_NAMES

from .config import ObjectDataConfig
from .voc import VOC_CLASSES, VocAnnotation, devkit, read_image_set
from .voc_detection import VOC0712, load_voc_detection, to_image

PICTURES = ("JPEGImages", "images", "Images")
#: Files that name the classes, a line each; CVAT's `labelmap.txt` has colours and parts after a colon.
CLASS_FILES = ("labelmap.txt", "classes.txt", "labels.txt")


@dataclass(frozen=True)
class VocPart:
    """Annotations of a split.

    Args:
        pictures (`Path`): The folder of the pictures.
        annotations (`Path`): The folder of the annotations.
        image_set (`str`, *optional*): Which of them, a list in `ImageSets/Main`; all of them if left out.
    """

    pictures: Path
    annotations: Path
    image_set: str | None = None


def find_voc(root: Path) -> dict[str, list[VocPart]] | None:
    """The parts of each split in a folder with VOC's annotations, if it is one."""
    years = sorted(path for path in devkit(root).glob("VOC20*") if (path / "Annotations").is_dir())
    bases = years or [root] * (root / "Annotations").is_dir()
    parts: dict[str, list[VocPart]] = {}
    for base in bases:
        pictures = next((base / name for name in PICTURES if (base / name).is_dir()), base / "Annotations")
        for role, name in _image_sets(base).items():
            parts.setdefault(role, []).append(VocPart(pictures, base / "Annotations", name))
    for role, names in SPLIT_NAMES.items():
        folder = next((root / name for name in names if next((root / name).glob("*.xml"), None)), None)
        if folder is not None and not bases:
            parts[role] = [VocPart(folder, folder)]
    return parts or None


def _image_sets(base: Path) -> dict[str, str | None]:
    """The image set of each split; where there is none, all annotations train."""
    there = {path.stem for path in (base / "ImageSets" / "Main").glob("*.txt")}
    found = {role: next((name for name in names if name in there), None) for role, names in SPLIT_NAMES.items()}
    if found["train"] == "trainval":
        found["validation"] = None  # it trains
    return {role: name for role, name in found.items() if name} or {"train": None}


def load_voc(
    root: Path, parts: dict[str, list[VocPart]], config: ObjectDataConfig, unreadable: list[Source] | None = None
) -> ObjectData:
    """Load what [`find_voc`] found; the official 07+12 is split as the paper does.

    The classes are those that the settings or a file name, VOC's own 20 where no other is annotated in a year of VOC,
    or else those that are annotated, in alphabetical order.

    Args:
        root (`Path`): The folder.
        parts (`dict[str, list[VocPart]]`): By split.
        config (`ObjectDataConfig`): May name the classes, and has the frame of the boxes.
        unreadable (`list`, *optional*): Takes pictures without annotation that cannot be read, which are left out.

    Raises:
        FileNotFoundError: If an annotation is missing.
        ValueError: If an annotation is broken or has another class than those named, two are of one picture, or there
            is none at all.
    """
    read = {split: [(part, *one) for part in some for one in _read(part)] for split, some in parts.items()}
    annotations = [one for rows in read.values() for _, _, one in rows if one is not None]
    in_years = any(part.annotations.parent.name.startswith("VOC20") for some in parts.values() for part in some)
    names = tuple(config.class_names) or _named(root) or _annotated(annotations, in_years)
    if not names:
        raise ValueError(f"No annotation in {root} has an object; annotate some, or name the classes: --class_names.")
    if names == VOC_CLASSES and _is_official(root):
        return load_voc_detection(root, exif_frame=config.exif_frame)
    ids = {name: number for number, name in enumerate(names, 1)}
    splits: dict[str, list[ObjectImage]] = {}
    for split, rows in read.items():
        images = splits[split] = []
        stems: dict[Source, str] = {}
        for part, stem, annotation in rows:
            number = len(images) + 1
            try:
                images.append(_image(part, stem, annotation, number, ids, config.exif_frame))
            except UnreadableImage as error:
                if unreadable is None:
                    raise
                unreadable.append(_picture(part, stem) or Path(str(error)))
                continue
            source = images[-1].source
            other = stems.setdefault(source, stem)
            if other != stem:
                raise ValueError(
                    f"{other} and {stem} of {part.annotations} are both of the picture {source}: correct the "
                    "<filename> in their XML files, or remove one."
                )
    return ObjectData(root.name, splits, {number: name for name, number in ids.items()})


def _read(part: VocPart) -> list[tuple[str, VocAnnotation | None]]:
    """The names of the pictures of a part, each with its annotation; a picture without one has no objects."""
    if part.image_set is not None:
        return list(read_image_set(part.annotations.parent, part.image_set))
    inside = DataFolder(part.annotations)
    files = {path.stem: inside.file(path.name, part.annotations) for path in sorted(part.annotations.glob("*.xml"))}
    names = sorted(part.pictures.iterdir())
    warn_of_skipped(part.pictures, names)
    pictures = {path.stem for path in names if path.name.lower().endswith(IMAGE_SUFFIXES)}
    return [(stem, VocAnnotation.read(files[stem]) if stem in files else None) for stem in sorted(pictures | {*files})]


def _named(root: Path) -> tuple[str, ...]:
    """The classes that a file names; of CVAT's, without the background."""
    file = next((root / name for name in CLASS_FILES if (root / name).is_file()), None)
    if file is None:
        return ()
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    names = (line.partition(":")[0].strip() for line in lines)
    return tuple(dict.fromkeys(name for name in names if name and name != "background"))


def _annotated(annotations: Sequence[VocAnnotation], in_years: bool) -> tuple[str, ...]:
    """The classes that are annotated."""
    found = {one.text("name", element) for one in annotations for element in one.tree.findall("object")}
    return VOC_CLASSES if in_years and found <= {*VOC_CLASSES} else tuple(sorted(found))


def _is_official(root: Path) -> bool:
    sets = [pair for some in VOC0712.values() for pair in some]
    base = devkit(root)
    return all((base / f"VOC{year}" / "ImageSets" / "Main" / f"{name}.txt").is_file() for year, name in sets)


def _image(
    part: VocPart, stem: str, annotation: VocAnnotation | None, number: int, ids: dict[str, int], frame: str | None
) -> ObjectImage:
    picture = _picture(part, stem)
    if annotation is not None:
        return to_image(annotation, DataFolder(part.pictures), number, ids, frame, picture)
    assert picture is not None, "without an annotation there is a picture"
    width, height = image_size(picture)[0]
    return ObjectImage(number, height, width, picture, (), frame)


def _picture(part: VocPart, stem: str) -> Path | None:
    """The picture that has the name of an annotation, whatever name the annotation has for it."""
    inside = DataFolder(part.pictures)
    names = (stem + suffix for end in IMAGE_SUFFIXES for suffix in (end, end.upper()))
    return next((inside.file(name, part.annotations) for name in names if (part.pictures / name).exists()), None)
