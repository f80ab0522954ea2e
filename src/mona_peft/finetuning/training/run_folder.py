"""The folder of a run: whose it is, and its log of figures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from .checkpointing import write_json

RUN_FILE = "run.json"
LOG_FILE = "metrics.jsonl"


def open_run(folder: Path, settings: dict[str, Any], free: frozenset[str], resume: bool, overwrite: bool) -> None:
    """Claim `folder` for a run with these settings, or check that it holds that very run.

    Args:
        folder (`Path`): created where missing.
        settings (`dict[str, Any]`): of loop and task, JSON values.
        free (`frozenset[str]`): settings that may differ when resuming.
        resume (`bool`): go on with the run in the folder; a folder without one starts it.
        overwrite (`bool`): delete the run in the folder.

    Raises:
        `FileExistsError`: if another run is there.
        `ValueError`: if the run there had other settings.
    """
    record = folder / RUN_FILE
    if overwrite and record.exists():
        shutil.rmtree(folder)
    if record.exists():
        if not resume:
            raise FileExistsError(
                f"{folder} holds a run already. Choose another output_dir, go on with --resume, or delete it with "
                "--overwrite_output_dir."
            )
        _check_same(folder, json.loads(record.read_text(encoding="utf-8")), settings, free)
    elif folder.exists() and any(folder.iterdir()) and not resume:
        raise FileExistsError(f"{folder} is not empty and holds no run of this program. Choose another output_dir.")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(record, settings)


def _check_same(folder: Path, before: dict[str, Any], now: dict[str, Any], free: frozenset[str]) -> None:
    """Refuse to resume under settings that change what is computed."""
    now = json.loads(json.dumps(now))
    differing = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    differing = [name for name in differing if name not in free]
    if differing:
        listed = "; ".join(f"{name}: {before.get(name)!r} then, {now.get(name)!r} now" for name in differing)
        raise ValueError(f"The run in {folder} cannot be resumed with other settings ({listed}).")


class FigureLog:
    """Appends records to `metrics.jsonl`, one JSON object a line.

    Args:
        path (`Path`): the file.
        from_step (`int`): records of later steps are dropped, as a resumed run writes them again.
    """

    def __init__(self, path: Path, from_step: int = 0) -> None:
        self.path = path
        kept = [record for record in read_log(path) if record["step"] <= from_step] if from_step else []
        temporary = path.with_name(path.name + ".incomplete")
        temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        temporary.replace(path)

    def write(self, kind: str, step: int, epoch: float, **figures: Any) -> None:
        """Append one record.

        Args:
            kind (`str`): `train`, or the split that was evaluated.
            step (`int`): optimiser steps done.
            epoch (`float`): epochs done.
            **figures: JSON values.
        """
        record = {"kind": kind, "step": step, "epoch": round(epoch, 4), **figures}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """Records of a `metrics.jsonl`; a last line cut off by a kill is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records
