"""Files that appear whole or not at all, and can tell whether they still are what was written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMPORARY = ".incomplete"
#: A JSON object, as a file holds it.
Json = dict[str, Any]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to; the file there in the end is flushed to disk and replaces `path`.

    Raises:
        ValueError: If `path` is a folder.
    """
    if path.is_dir() and not path.is_symlink():
        raise ValueError(f"{path} is a folder, and a file has to be written there. Move it away.")
    temporary = path.with_name(path.name + TEMPORARY)
    if not temporary.is_file() or temporary.is_symlink():  # a pipe would be waited for, a link followed
        temporary.unlink(missing_ok=True)
    yield temporary
    flush(temporary)
    temporary.replace(path)
    flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write `text` so that `path` holds the old content or the new one, never a part."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2))


def read_json(path: Path, remedy: str) -> Any:
    """Read a JSON file.

    Args:
        path (`Path`): The file.
        remedy (`str`): What to do where it cannot be read, for the message.

    Raises:
        ValueError: If it cannot be read.
    """
    try:
        refuse_special(path)
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({error}). {remedy}") from error


def refuse_special(path: Path) -> None:
    """Refuse what opens like a file and may never end, such as a pipe or a device.

    Raises:
        ValueError: If `path` is there, and is neither a file nor a folder.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError(f"{path} is a pipe or a device and not a file")


def flush(path: Path) -> None:
    """Have the system write a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
