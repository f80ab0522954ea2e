"""The stored bytes of images: which are the same file in two places."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow.compute as pc

from mona_peft.finetuning.data.classification.dataset import arrow_column
from mona_peft.finetuning.data.sources.stored_rows import HubImage

from .images import Source


def shared_images(
    one: Sequence[Source], other: Sequence[Source], most: int | None = None
) -> list[tuple[Source, Source]]:
    """Pairs of images of two splits whose stored bytes are the same. Only those of one length are read.

    Args:
        one (`Sequence[Source]`): Images; those that are neither files nor rows of a table are left out.
        other (`Sequence[Source]`): Further ones.
        most (`int`, *optional*): After so many were read, no more are; all if left out.
    """
    lengths = [_by_length(one), _by_length(other)]
    pairs: list[tuple[Source, Source]] = []
    read = 0
    for length in sorted(lengths[0].keys() & lengths[1].keys()):
        read += len(lengths[0][length]) + len(lengths[1][length])
        if most is not None and read > most:
            break
        known = {_digest(source): source for source in reversed(lengths[0][length])}
        for source in lengths[1][length]:
            if found := known.get(_digest(source)):
                pairs.append((found, source))
    return pairs


def _by_length(sources: Iterable[Source]) -> Mapping[int, list[Source]]:
    found: dict[int, list[Source]] = defaultdict(list)
    for source, length in _lengths(list(sources)):
        found[length].append(source)
    return found


def _lengths(sources: Sequence[Source]) -> Iterator[tuple[Source, int]]:
    """Images whose bytes can be had, and how many they are; those of a table are not read for it."""
    stored: dict[int, tuple[list[int | None], list[str | None]]] = {}
    for source in sources:
        path = source if isinstance(source, Path) else None
        if isinstance(source, HubImage):
            if id(source.rows) not in stored:
                column = arrow_column(source.rows, source.column)
                lengths = pc.binary_length(pc.struct_field(column, "bytes")).to_pylist()
                stored[id(source.rows)] = lengths, pc.struct_field(column, "path").to_pylist()
            lengths, paths = stored[id(source.rows)]
            length = lengths[source.row]
            if length is not None:
                yield source, length
                continue
            path = Path(paths[source.row] or "")
        if path is not None and path.is_file():
            yield source, path.stat().st_size


def _digest(source: Source) -> bytes:
    if isinstance(source, Path):
        content = source.read_bytes()
    else:
        stored = source()
        assert isinstance(stored, dict), "a row of a table"
        content = stored["bytes"] if stored["bytes"] is not None else Path(stored["path"] or "").read_bytes()
    return hashlib.sha256(content).digest()
