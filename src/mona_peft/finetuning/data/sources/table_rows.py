"""The rows of CSV and JSON-lines files, each with its file and line for messages."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from mona_peft.finetuning.files import Json

#: File and line, and the values by column.
Row = tuple[str, Json]


def read_rows(file: Path) -> Iterator[Row]:
    """The rows of a table, each with file and line.

    Raises:
        ValueError: If the file is no text, or a line cannot be; the message names file and line.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            yield from (_json_rows if file.suffix.lower() in (".jsonl", ".ndjson") else _csv_rows)(file, lines)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} cannot be read: {error}.") from None


def _json_rows(file: Path, lines: TextIO) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        where = f"{file}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{where} is no JSON: {error}.") from None
        if not isinstance(row, dict):
            raise ValueError(f"{where} is no JSON object but {line.strip()[:60]!r}.")
        yield where, row


def _csv_rows(file: Path, lines: TextIO) -> Iterator[Row]:
    header = lines.readline()
    divider = "\t" if file.suffix.lower() == ".tsv" else ";" if ";" in header and "," not in header else ","
    names = [name.strip() for name in next(csv.reader([header], delimiter=divider), [])]
    reader = csv.reader(lines, delimiter=divider)
    for cells in reader:
        where = f"{file}, line {reader.line_num + 1}"
        if not cells:
            continue
        if len(cells) != len(names):
            raise ValueError(f"{where} has {len(cells)} values, the first line names {len(names)} columns.")
        yield where, dict(zip(names, map(str.strip, cells), strict=True))


def column_of(row: Iterable[str], usual: Sequence[str]) -> str | None:
    """The first of the usual names that a row has, as the row writes it."""
    lower = {name.lower(): name for name in row}
    return next((lower[name] for name in usual if name in lower), None)
