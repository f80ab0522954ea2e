"""Folders that are made anew each time, and take the place of what was made before, but of nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mona_peft.finetuning.files import read_json, write_json

#: Lists the files that were written to a folder.
MARK = ".made.json"


@contextmanager
def making(target: Path, names: Iterable[str]) -> Iterator[Path]:
    """Give an empty folder to write to; in the end it takes the place of `target`, which stays as it was till then.

    Args:
        target (`Path`): The folder to make.
        names (`Iterable[str]`): Files that may be written, relative to it. A folder made before `MARK` was is known by
            them.

    Raises:
        ValueError: If `target` is a file, or has files in it that were not written this way.
    """
    mine = {*names, MARK}
    if (target / MARK).is_file():
        mine.update(read_json(target / MARK, f"Move {target} away."))
    foreign = target if target.is_file() else next((file for file in files_in(target) if file not in mine), None)
    if foreign is not None:
        raise ValueError(
            f"{foreign} in {target} was not made here and would be lost. Move it away, or write elsewhere."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as place:
        made = Path(place, "made")
        made.mkdir()
        yield made
        write_json(made / MARK, files_in(made))
        if target.exists():
            target.rename(Path(place, "before"))
        made.rename(target)


def files_in(folder: Path) -> list[str]:
    """The files below a folder, relative to it."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
