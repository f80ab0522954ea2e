"""Legends of label maps: which class a stored number or colour is.

- `class_dict.csv`, `classes.csv`, `legend.csv`: columns `name` and `r`, `g`, `b`, or `name` and a number;
- `_classes.csv`: Roboflow's, columns `Pixel Value` and `Class`;
- `labelmap.txt`: CVAT's, a line `name:r,g,b::` a class;
- `legend.json`: `{"name": [r, g, b]}` or `{"name": number}`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mona_peft.finetuning.data.images import IGNORED, to_rgb

LEGEND_FILES = ("class_dict.csv", "classes.csv", "legend.csv", "_classes.csv", "labelmap.txt", "legend.json")
#: Classes of these names do not count, as 255 does not.
NO_CLASS = ("ignore", "ignored", "void", "unlabeled", "unlabelled")
COLUMNS = {
    "name": ("name", "class", "class_name", "label", "category"),
    "r": ("r", "red"),
    "g": ("g", "green"),
    "b": ("b", "blue"),
    "number": ("pixel value", "pixel_value", "number", "index", "value", "id"),
}


@dataclass(frozen=True)
class Legend:
    """What stored numbers or colours mean.

    Args:
        path (`Path`): The file that says so.
        names (`tuple[str, ...]`): By label, without those that do not count.
        keys (`tuple[int, ...]`): Stored numbers, or colours as `r * 65536 + g * 256 + b`, ascending.
        labels (`tuple[int, ...]`): Of each key.
        coloured (`bool`): Whether the keys are colours.
    """

    path: Path
    names: tuple[str, ...]
    keys: tuple[int, ...]
    labels: tuple[int, ...]
    coloured: bool

    def read(self, label_map: Image.Image, name: str) -> np.ndarray:
        """Labels `(H, W)`, int64, of a stored label map.

        Args:
            label_map (`PIL.Image.Image`): Numbers, or colours in any mode.
            name (`str`): Of it, for the message.

        Raises:
            ValueError: If it has a number or colour that is not in the legend.
        """
        stored = _packed(label_map) if self.coloured else np.asarray(label_map).astype(np.int64)
        keys = np.array(self.keys)
        places = np.searchsorted(keys, stored).clip(max=len(keys) - 1)
        known = keys[places] == stored
        labels = np.where(known, np.array(self.labels)[places], IGNORED)
        wrong = ~known if self.coloured else ~known & (stored != IGNORED)
        if wrong.any():
            y, x = np.argwhere(wrong)[0].tolist()
            value = int(stored[y, x])
            found = f"the colour {(value >> 16, value >> 8 & 255, value & 255)}" if self.coloured else f"{value}"
            raise ValueError(
                f"{name} has {found} at x={x}, y={y}, which {self.path} does not list. Add it there, or correct the "
                "label map (as PNG: JPEG changes colours)."
            )
        return labels


def _packed(label_map: Image.Image) -> np.ndarray:
    red, green, blue = np.moveaxis(np.asarray(to_rgb(label_map)).astype(np.int64), -1, 0)
    return red << 16 | green << 8 | blue


def find_legend(*folders: Path) -> Legend | None:
    """The legend of the first of some folders that has one.

    Raises:
        ValueError: If a legend cannot be used.
    """
    found = (folder / name for folder in folders for name in LEGEND_FILES if (folder / name).is_file())
    path = next(found, None)
    return read_legend(path) if path else None


def read_legend(path: Path) -> Legend:
    """Read a legend.

    Raises:
        ValueError: If it cannot be used; the message names file and line.
    """
    entries: dict[int, str] = {}
    coloured = None
    try:
        readers = {".csv": _csv_rows, ".txt": _labelmap_rows, ".json": _json_rows}
        for where, name, value in readers[path.suffix.lower()](path):
            key = _key(where, value)
            if coloured not in (None, isinstance(value, list)) or key in entries:
                raise ValueError(f"{where}: {name!r} has {value}, which is another kind or comes twice.")
            coloured, entries[key] = isinstance(value, list), name
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise ValueError(f"The legend {path} cannot be read: {error}.") from None
    names: list[str] = []
    for name in entries.values():
        if name.lower() not in NO_CLASS and name not in names:
            names.append(name)
    if not names:
        raise ValueError(f"The legend {path} lists no class.")
    numbers = {name: label for label, name in enumerate(names)}
    keys = tuple(sorted(entries))
    return Legend(path, tuple(names), keys, tuple(numbers.get(entries[key], IGNORED) for key in keys), bool(coloured))


def _key(where: str, value: object) -> int:
    numbers = value if isinstance(value, list) else [value]
    most = 255 if isinstance(value, list) else 65535
    good = [number for number in numbers if type(number) is int and 0 <= number <= most]
    if len(good) < len(numbers) or len(good) not in (1, 3):
        raise ValueError(f"{where}: {value} is neither a number nor a colour of three numbers from 0 to 255.")
    return good[0] if len(good) == 1 else good[0] << 16 | good[1] << 8 | good[2]


def _csv_rows(path: Path) -> Iterator[tuple[str, str, object]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        header = {str(name).strip().lower(): name for name in reader.fieldnames or ()}
        columns = {key: next((header[n] for n in names if n in header), None) for key, names in COLUMNS.items()}
        values = [columns[channel] for channel in "rgb"]
        values = values if all(values) else [columns["number"]]
        if columns["name"] is None or None in values:
            raise ValueError(
                f"The legend {path} has the columns {', '.join(header)}; it needs name and r, g, b or id."
            )
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            try:
                numbers = [int(row[column]) for column in values]
            except (TypeError, ValueError):
                raise ValueError(f"{where}: {[row[column] for column in values]} are no whole numbers.") from None
            yield where, str(row[columns["name"]]).strip(), numbers if len(numbers) == 3 else numbers[0]


def _labelmap_rows(path: Path) -> Iterator[tuple[str, str, object]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        try:
            yield f"{path}, line {number}", name.strip(), [int(one) for one in rest.partition(":")[0].split(",")]
        except ValueError:
            raise ValueError(f"{path}, line {number}: {line!r} is no name:r,g,b.") from None


def _json_rows(path: Path) -> Iterator[tuple[str, str, object]]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"The legend {path} is no JSON object of names and colours or numbers.")
    yield from ((f"{path}, {name!r}", str(name), value) for name, value in content.items())
