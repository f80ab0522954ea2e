"""YOLO's folders, as Ultralytics, Roboflow and labelling tools write them: a text file of objects a picture.

`data.yaml` names the classes and where each split is. The labels of `.../images/a.jpg` are in `.../labels/a.txt`; a
picture without that file has no objects.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from mona_peft.finetuning.data.dense.objects import ObjectData, ObjectImage
from mona_peft.finetuning.data.folders import DataFolder
from mona_peft.finetuning.data.images import IMAGE_SUFFIXES, Source, UnreadableImage, image_size, warn_of_skipped
from mona_peft.finetuning.data.splits import SPLIT_NAMES
from mona_peft.finetuning.validation import first_line

from .yolo_labels import read_labels

#: Files of class names, a line each, where there is no `data.yaml`.
NAME_FILES = ("classes.txt", "obj.names", "labels/classes.txt")
KEYS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}


@dataclass(frozen=True)
class YoloFolder:
    """What a folder in YOLO's layout holds.

    Args:
        root (`Path`): The folder.
        named_by (`Path`): The file that names the classes, or the folder.
        names (`tuple[str, ...]`): By number; empty if nothing names them.
        splits (`dict[str, list[str]]`): Folders of pictures, or lists of them, relative to the folder.
    """

    root: Path
    named_by: Path
    names: tuple[str, ...]
    splits: dict[str, list[str]]


def find_yolo(root: Path) -> YoloFolder | None:
    """What of YOLO's layout is in a folder, if it is in that layout.

    Raises:
        ValueError: If a `data.yaml` cannot be used.
    """
    for file in sorted(root.glob("*.y*ml"), key=lambda path: (path.stem != "data", path.name)):
        if not file.is_file():
            continue
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{file} is no YAML: {first_line(error)}.") from None
        if isinstance(content, dict) and "names" in content and {*KEYS} & {*content}:
            return _from_yaml(root, file, content)
    splits = {role: [found] for role in SPLIT_NAMES if (found := _usual_place(root, role))}
    if not splits and _has_labels(root / "labels"):
        splits = {"train": ["images"]}
    if not splits:
        return None
    file = next((root / name for name in NAME_FILES if (root / name).is_file()), root)
    names = () if file == root else tuple(filter(None, map(str.strip, file.read_text(encoding="utf-8").splitlines())))
    return YoloFolder(root, file, names, splits)


def _usual_place(root: Path, role: str) -> str | None:
    """Where the pictures of a split are without a `data.yaml`: `images/SPLIT` or `SPLIT/images`."""
    for name in SPLIT_NAMES[role]:
        for images, labels in ((f"images/{name}", f"labels/{name}"), (f"{name}/images", f"{name}/labels")):
            if (root / images).is_dir() and _has_labels(root / labels):
                return images
    return None


def _has_labels(folder: Path) -> bool:
    return folder.is_dir() and any(path.name != "classes.txt" for path in folder.glob("*.txt"))


def _from_yaml(root: Path, file: Path, content: Mapping[str, object]) -> YoloFolder:
    names = content["names"]
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise ValueError(f"{file}: the numbers of names are {list(names)}; they must be 0 to {len(names) - 1}.")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names or len({str(name) for name in names}) < len(names):
        raise ValueError(f"{file}: names is {names!r}; it must be a list of class names, each once.")
    if content.get("nc") not in (None, len(names)):
        raise ValueError(f"{file}: nc is {content['nc']}, but {len(names)} names follow. Correct one of them.")
    if "kpt_shape" in content:
        raise ValueError(f"{file} is for key points (kpt_shape), which no task here learns; give boxes or outlines.")
    base = content.get("path")
    base = base if isinstance(base, str) and not os.path.isabs(base) and (root / base).is_dir() else "."
    splits = {}
    for key, role in KEYS.items():
        entries = content.get(key)
        if entries and role not in splits:
            entries = entries if isinstance(entries, list) else [entries]
            splits[role] = [_inside(root, file, base, key, entry) for entry in entries]
    return YoloFolder(root, file, tuple(map(str, names)), splits)


def _inside(root: Path, file: Path, base: str, key: str, entry: object) -> str:
    """A place that `data.yaml` names, relative to the folder. Roboflow writes `../train/images` for `train/images`."""
    candidates = (os.path.join(base, str(entry)), str(entry), str(entry).removeprefix("../"))
    inside = DataFolder(root)
    for candidate in candidates:
        path = root / candidate
        if path.exists() and (os.path.realpath(path) + os.sep).startswith(inside.allowed):
            return candidate
    raise FileNotFoundError(f"{file}: {key} is {entry!r}, which is not in {root}. Correct the path or add the folder.")


def load_yolo(
    found: YoloFolder,
    class_names: Sequence[str] = (),
    exif_frame: str | None = None,
    unreadable: list[Source] | None = None,
) -> ObjectData:
    """Load a data set in YOLO's layout.

    Args:
        found (`YoloFolder`): Of [`find_yolo`].
        class_names (`Sequence[str]`): By number, where the folder has none.
        exif_frame (`str`, *optional*): Frame of the labels; upright if left out, as YOLO's tools read pictures.
        unreadable (`list`, *optional*): Takes the pictures that cannot be read, which are left out.

    Raises:
        FileNotFoundError: If a picture is missing.
        ValueError: If the classes have no names, or are named twice, or a line cannot be; the message names it.
    """
    if found.names and class_names:
        raise ValueError(f"{found.named_by} names the classes: leave out class_names.")
    names = tuple(found.names or class_names)
    if not names:
        raise ValueError(f"{found.root} has no data.yaml or classes.txt; give the names with --class_names.")
    splits: dict[str, list[ObjectImage]] = {}
    for role, places in found.splits.items():
        images = splits[role] = []
        for path, labels in _pictures(found.root, places):
            try:
                (width, height), orientation = image_size(path)
            except UnreadableImage:
                if unreadable is None:
                    raise
                unreadable.append(path)
                continue
            frame = exif_frame or "upright"
            if frame == "upright" and orientation > 4:
                width, height = height, width
            objects = tuple(read_labels(labels, names, found.named_by, width, height)) if labels else ()
            images.append(ObjectImage(len(images) + 1, height, width, path, objects, frame))
    return ObjectData(found.root.name, splits, dict(enumerate(names)))


def _pictures(root: Path, places: Sequence[str]) -> Iterator[tuple[Path, Path | None]]:
    """Pictures of a split, each with the file of its labels, if there is one."""
    inside = DataFolder(root)
    for place in places:
        path = root / place
        if path.is_file():
            yield from _listed(path, root, inside)
            continue
        files = sorted(
            os.path.relpath(os.path.join(folder, name), root) for folder, _, some in os.walk(path) for name in some
        )
        warn_of_skipped(path, files)
        names = [name for name in files if name.lower().endswith(IMAGE_SUFFIXES)]
        if not names:
            raise FileNotFoundError(f"{path} holds no images ({', '.join(IMAGE_SUFFIXES)}).")
        pairs = [(inside.file(name, path), _labels_of(name)) for name in names]
        _refuse_orphans(root, path, {labels for _, labels in pairs})
        for image, labels in pairs:
            yield image, _existing(inside, labels, image)


def _listed(listing: Path, root: Path, inside: DataFolder) -> Iterator[tuple[Path, Path | None]]:
    """Pictures that a text file lists, relative to the data set or to that file."""
    for number, line in enumerate(listing.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        where, name = f"{listing}, line {number}", os.path.normpath(line.strip())
        at_listing = os.path.normpath(os.path.join(os.path.relpath(listing.parent, root), name))
        chosen = next((one for one in (name, at_listing) if (root / one).is_file()), name)
        image = inside.file(chosen, where)
        if not image.is_file():
            raise FileNotFoundError(f"{where} lists {line.strip()!r}, which is not there. Add it or remove the line.")
        yield image, _existing(inside, _labels_of(chosen), image)


def _labels_of(name: str) -> str:
    """Where the labels of a picture are: `labels` in place of the last folder `images`, `.txt` as the suffix."""
    parts = list(Path(name).with_suffix(".txt").parts)
    for position in range(len(parts) - 2, -1, -1):
        if parts[position] == "images":
            parts[position] = "labels"
            break
    return os.path.join(*parts)


def _existing(inside: DataFolder, labels: str, image: Path) -> Path | None:
    path = inside.file(labels, image)
    return path if path.is_file() else None


def _refuse_orphans(root: Path, images: Path, known: set[str]) -> None:
    """Refuse labels without a picture: it was lost, or has another name."""
    for folder in sorted({os.path.dirname(labels) for labels in known}):
        for path in sorted((root / folder).glob("*.txt")):
            if os.path.join(folder, path.name) not in known and path.name != "classes.txt" and "labels" in folder:
                raise FileNotFoundError(f"{path} has no picture in {images}. Add the picture or remove the file.")
