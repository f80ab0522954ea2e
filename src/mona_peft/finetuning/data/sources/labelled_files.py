"""CSV and JSON-lines files of image paths and labels, one or several labels an image.

- A file; or a folder with `train.csv`, `validation.csv` and `test.csv`, `labels.csv`, or `SPLIT/_classes.csv`.
- A column of paths, relative to the file; one of labels, several divided by `;` or `|`, or one of 0 and 1 a class.
- Where there is a column `split`, it says which split a row is of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from mona_peft.finetuning.data.folders import DataFolder
from mona_peft.finetuning.data.images import IMAGE_SUFFIXES
from mona_peft.finetuning.data.splits import SPLIT_NAMES

from .hub import LABEL_NAMES
from .table_rows import Row, column_of, read_rows

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
USUAL = ("labels", "annotations", "data", "index")
PATH_COLUMNS = (
    *("file_name", "filename", "path", "file", "image", "image_path", "filepath", "file_path", "img", "image_name"),
    *("image_id", "id"),
)
SPLIT_COLUMNS = ("split", "set", "subset", "partition")
DIVIDERS = ";|"


@dataclass
class Labelled:
    """What is said of one image.

    Args:
        where (`str`): File and line.
        path (`str`): Of the image.
        label (`Any`): A class name or number, or a list of them.
    """

    where: str
    path: str
    label: Any


def find_labelled(source: Path) -> dict[str, Path]:
    """The files by split (`""` for one that holds all), if the source is such a file or a folder of them."""
    if source.is_file():
        return {"": source} if source.suffix.lower() in TABLES else {}
    found: dict[str, Path] = {}
    for role, names in SPLIT_NAMES.items():
        for name in names:
            files = [source / f"{name}{suffix}" for suffix in TABLES] + [source / name / "_classes.csv"]
            for file in files:
                if file.is_file() and _has_paths(file):
                    found.setdefault(role, file)
    whole = [source / f"{name}{suffix}" for name in USUAL for suffix in TABLES]
    usual = next((file for file in whole if file.is_file() and _has_paths(file)), None)
    return found or ({"": usual} if usual else {})


def _has_paths(file: Path) -> bool:
    """Whether the first row of a table has a column of paths."""
    try:
        _, first = next(read_rows(file))
    except (StopIteration, ValueError):
        return False
    return column_of(first, PATH_COLUMNS) is not None


def load_labelled(
    found: dict[str, Path],
    image_column: str | None = None,
    label_column: str | None = None,
    class_names: Sequence[str] = (),
    allow_missing: bool = False,
) -> tuple[dict[str, datasets.Dataset], list[str]]:
    """Read the files of a data set.

    Args:
        found (`dict[str, Path]`): Of [`find_labelled`].
        image_column (`str`, *optional*): Column of the paths; found if left out.
        label_column (`str`, *optional*): Column of the labels; found if left out.
        class_names (`Sequence[str]`): By number; of all splits together if left out.
        allow_missing (`bool`): Whether an image may be missing.

    Returns:
        `tuple[dict[str, datasets.Dataset], list[str]]`: Splits with columns `image` and `label`; the class names.

    Raises:
        FileNotFoundError: If an image is missing; the message names file and line.
        ValueError: If a column is missing or a line cannot be; the message names file and line.
    """
    splits = _read(found, image_column, label_column)
    together = [one for part in splits.values() for one in part]
    several = _divide(together)
    names = _names(together, class_names)
    kind: Any = datasets.Value("int64" if _are_numbers(together) else "string")
    features = datasets.Features(
        {"image": datasets.Value("string"), "label": datasets.List(kind) if several else kind}
    )
    tables = {}
    for role, part in splits.items():
        paths = _paths(part, found.get(role) or found[""], allow_missing)
        table = datasets.Dataset.from_dict({"image": paths, "label": [one.label for one in part]}, features=features)
        tables[role] = table.cast_column("image", datasets.Image(decode=False))
    return {role: tables[role] for role in SPLIT_NAMES if role in tables}, names


def _read(found: dict[str, Path], image_column: str | None, label_column: str | None) -> dict[str, list[Labelled]]:
    """The rows of each split."""
    splits: dict[str, list[Labelled]] = {}
    for role, file in found.items():
        rows = list(read_rows(file))
        if not rows:
            raise ValueError(f"{file} lists no image.")
        columns = _columns(file, rows, image_column, label_column)
        for where, row in rows:
            splits.setdefault(role or _split_of(where, row), []).append(_labelled(where, row, *columns))
    return splits


def _columns(file: Path, rows: list[Row], image: str | None, label: str | None) -> tuple[str, str | list[str]]:
    """The column of the paths, and that of the labels or those of the classes."""
    first = rows[0][1]
    for name in (image, label):
        if name is not None and name not in first:
            raise ValueError(f"{file} has no column {name!r}; it has {', '.join(first)}.")
    path = image or column_of(first, PATH_COLUMNS)
    if path is None:
        raise ValueError(f"{file} has no column of paths among {', '.join(first)}; name it with --image_column.")
    found = label or column_of({name: 0 for name in first if name != path}, LABEL_NAMES)
    if found is not None:
        return path, found
    others = [name for name in first if name != path and name.lower() not in SPLIT_COLUMNS]
    cells = [(where, name, row.get(name)) for where, row in rows for name in others]
    wrong = [cell for cell in cells if str(cell[2]) not in ("0", "1")]
    if len(others) < 2 or len(wrong) > len(cells) / 2:
        raise ValueError(f"{file} has no column of labels among {', '.join(first)}; name it with --label_column.")
    if wrong:
        where, name, value = wrong[0]
        raise ValueError(
            f"{where} has {value!r} for the class {name!r}, which must be 0 or 1. Correct it, or name a column of "
            "labels with --label_column."
        )
    return path, others


def _split_of(where: str, row: Mapping[str, object]) -> str:
    column = column_of(row, SPLIT_COLUMNS)
    if column is None:
        return "train"
    value = str(row[column]).lower()
    role = next((role for role, names in SPLIT_NAMES.items() if value in names), None)
    if role is None:
        raise ValueError(f"{where} has the split {row[column]!r}; it must be train, validation or test.")
    return role


def _labelled(where: str, row: dict[str, Any], path: str, label: str | list[str]) -> Labelled:
    value = row.get(path)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where} has no path in the column {path!r}.")
    if isinstance(label, list):
        return Labelled(where, value, [name for name in label if str(row[name]) == "1"])
    found = row.get(label)
    kinds = (str, int)
    good = all(isinstance(one, kinds) and one != "" for one in (found if isinstance(found, list) else [found]))
    if not good:
        raise ValueError(f"{where} has the label {found!r}; it must be a class name or number, or several.")
    return Labelled(where, value, found)


def _divide(rows: list[Labelled]) -> bool:
    """Make every label a list where one is, or divides several; whether it is so."""
    several = any(
        isinstance(one.label, list) or (isinstance(one.label, str) and set(one.label) & set(DIVIDERS)) for one in rows
    )
    for one in rows:
        label = one.label
        if several and isinstance(label, str):
            for divider in DIVIDERS:
                label = label.replace(divider, "\n")
            label = [name.strip() for name in label.split("\n") if name.strip()]
        elif several and not isinstance(label, list):
            label = [label]
        one.label = label
    return several


def _values(one: Labelled) -> list[Any]:
    return one.label if isinstance(one.label, list) else [one.label]


def _are_numbers(rows: list[Labelled]) -> bool:
    return all(isinstance(value, int) for one in rows for value in _values(one))


def _names(rows: list[Labelled], given: Sequence[str]) -> list[str]:
    """Names of the classes; labels that are all digits become numbers.

    Raises:
        ValueError: If a label is none of the given names, or beyond them; the message names file and line.
    """
    if all(str(value).isdigit() for one in rows for value in _values(one)):
        for one in rows:
            numbers = [int(value) for value in _values(one)]
            one.label = numbers if isinstance(one.label, list) else numbers[0]
        highest = max((value for one in rows for value in _values(one)), default=-1)
        names = list(given) or [str(number) for number in range(highest + 1)]
        known: set[str | int] = set(range(len(names)))
    else:
        names = list(given) or sorted({str(value) for one in rows for value in _values(one)})
        known = set(names)
    for one in rows:
        wrong = next((value for value in _values(one) if value not in known), None)
        if wrong is not None:
            raise ValueError(f"{one.where} has the label {wrong!r}, which is none of {', '.join(names[:10])}.")
    return names


def _paths(rows: list[Labelled], file: Path, allow_missing: bool) -> list[str]:
    """Where the images are: as listed, in `images/`, or in a folder named as the file; with or without suffix."""
    folder, stem = file.parent, file.stem
    inside = DataFolder(folder)
    paths = []
    for one in rows:
        places = (one.path, f"images/{one.path}", f"{stem}/{one.path}")
        candidates = [place + suffix for place in places for suffix in ("", *IMAGE_SUFFIXES)]
        name = next((place for place in candidates if (folder / place).is_file()), one.path)
        path = inside.file(name, one.where)
        if not allow_missing and not path.is_file():
            raise FileNotFoundError(
                f"{one.where} lists {one.path!r}, which is not in {folder}. Add it, remove the line, or pass "
                "--skip_bad_images."
            )
        paths.append(str(path))
    return paths
