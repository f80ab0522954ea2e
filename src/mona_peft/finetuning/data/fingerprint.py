"""What tells one data set from another without reading its images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def digest(parts: Iterable[object]) -> str:
    """A short hash of bytes, and of the `repr` of whatever else comes.

    Args:
        parts (`Iterable`): What to hash, in order; the `repr` must be the same in every process.
    """
    hashed = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else repr(part).encode()
        hashed.update(len(content).to_bytes(8, "little") + content)
    return hashed.hexdigest()[:16]


def source_name(source: object) -> str:
    """A file's name without its folder, which may move; of anything else, what it says of itself."""
    return source.name if isinstance(source, Path) else str(source)


def describe_data(data: Any) -> dict[str, object]:
    """What a run records of its data set, as JSON values: it only resumes on the same.

    Args:
        data (`ClassificationData`, `ObjectData` or `SegmentationData`): The data set.
    """
    sizes = {split: len(rows) for split, rows in data.splits.items() if hasattr(rows, "__len__")}
    return {
        "dataset": data.name,
        "class_names": list(data.class_names),
        "split_sizes": sizes,
        "data_fingerprint": data.fingerprint(),
    }
