"""Folders of class folders: which pictures are of which split.

`datasets` takes whatever has the word of a split in its name (a class `train_freight`, a picture `dog-test-1.png`) for
that split, and drops all else. Here a split is a folder with class folders in it.
"""

from __future__ import annotations

import glob
import re
import warnings
from collections import Counter
from pathlib import Path

from datasets.data_files import SPLIT_KEYWORDS
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from mona_peft.finetuning.data.images import warn_of_skipped

#: What `datasets` reads in place of pictures that are there as well.
TABLES = (".parquet", ".arrow", ".tar", ".zip")
#: What stands around the word of a split in the name of its folder: `train2017`, `my-val`.
_BETWEEN = "[-._ 0-9]"
_SPLITS = {
    str(split): re.compile(rf"(.*{_BETWEEN})?({'|'.join(words)})({_BETWEEN}.*)?", re.IGNORECASE)
    for split, words in SPLIT_KEYWORDS.items()
}


def find_class_folders(root: Path) -> dict[str, list[str]] | None:
    """Patterns of the files of each split; `None` where the folder holds no class folders, but what `datasets` reads.

    Pictures that are in no split, where there are splits, are left out with a warning.

    Args:
        root (`Path`): The folder.

    Raises:
        ValueError: If there are folders of splits alone, and none of classes.
    """
    files = [path.relative_to(root) for path in sorted(root.rglob("*"))]
    files = [file for file in files if not any(part.startswith((".", "__")) for part in file.parts)]
    pictures = [file for file in files if file.suffix.lower() in ImageFolder.EXTENSIONS and len(file.parts) > 1]
    tables = any(file.suffix.lower() in TABLES or file.stem == "metadata" for file in files)
    if not pictures or tables or _names_its_files(root):
        return None
    warn_of_skipped(root, files, ImageFolder.EXTENSIONS)
    folders = Counter(_split_folder(picture) for picture in pictures)
    left_out = folders.pop(None, 0)
    if not folders:
        classes = {picture.parent.name for picture in pictures}
        if all(_split_of(name) for name in classes):
            raise ValueError(
                f"{root} has the folders {', '.join(sorted(classes))}, but no class folders in them. Put the pictures "
                "into one folder a class, such as train/cat."
            )
        return {"train": ["**"]}
    if left_out:
        warnings.warn(
            f"{root}: pictures in no class folder of {', '.join(map(str, folders))} are left out, {left_out} in all. "
            "Move them there.",
            stacklevel=2,
        )
    patterns: dict[str, list[str]] = {}
    for folder in filter(None, folders):
        patterns.setdefault(_split_of(folder.name) or "", []).append(f"{glob.escape(folder.as_posix())}/**")
    return patterns


def _split_folder(picture: Path) -> Path | None:
    """The outermost folder of a split around a picture that has a class folder in between."""
    around = list(picture.parent.parents)[-2::-1]  # from the outermost; the last one is "."
    return next((folder for folder in around if _split_of(folder.name)), None)


def _split_of(name: str) -> str | None:
    return next((split for split, pattern in _SPLITS.items() if pattern.fullmatch(name)), None)


def _names_its_files(root: Path) -> bool:
    """Whether a card says, as on the Hub, which files are of which split."""
    card = root / "README.md"
    return card.is_file() and "data_files:" in card.read_text(encoding="utf-8", errors="replace")
