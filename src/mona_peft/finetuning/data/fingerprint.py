"""Short hashes, by which data sets are told apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


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
