"""The folder of a run: whose it is, and its log of figures."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from filelock import FileLock

from mona_peft.finetuning.files import TEMPORARY, Json, read_json, replacing, write_json
from mona_peft.finetuning.settings import with_new_names

from .best import BEST_WEIGHTS
from .checkpointing import NAME
from .ownership import LIST_FILE, LOCK_FILE, OwnFiles, lock_folder

RUN_FILE = "run.json"
LOG_FILE = "metrics.jsonl"
METRICS_FILE = "metrics.json"


class RunFolder:
    """The folder of a run, held by this process alone.

    Args:
        path (`Path`): The folder.
        own (`OwnFiles`): What the run wrote into it.
        lock (`FileLock`): Keeps other processes out.
        settings (`dict[str, object]`): Of the run, JSON values.
    """

    def __init__(self, path: Path, own: OwnFiles, lock: FileLock, settings: dict[str, object]) -> None:
        self.path = path
        self.own = own
        self.lock = lock
        self.settings = settings

    def confirm(self, **facts: object) -> None:
        """Record facts of the run that are known only now, or check that they have not changed.

        Raises:
            ValueError: If the run had other facts.
        """
        before = {name: self.settings[name] for name in facts if name in self.settings}
        check_same(self.path, before, {name: facts[name] for name in before}, frozenset())
        if len(before) < len(facts):
            self.settings |= facts
            write_json(self.path / RUN_FILE, self.settings)

    def close(self) -> None:
        """Let other processes in."""
        self.lock.release()


def open_run(
    folder: Path, settings: dict[str, object], free: frozenset[str], resume: bool, overwrite: bool
) -> RunFolder:
    """Claim `folder` for a run with these settings, or check that it holds that very run.

    Args:
        folder (`Path`): Created where missing.
        settings (`dict[str, object]`): Of loop and task, JSON values.
        free (`frozenset[str]`): Settings that may differ when resuming.
        resume (`bool`): Go on with the run in the folder; an empty folder starts it.
        overwrite (`bool`): Delete what the run in the folder wrote.

    Raises:
        FileExistsError: If the folder holds another run, or files of somebody else.
        RuntimeError: If another process is writing into it.
        ValueError: If the run there had other settings, its files are damaged, or it would start over.
    """
    refuse_foreign(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(folder)
    try:
        settings = json.loads(json.dumps(settings))
        own = OwnFiles.read(folder)
        if own is not None and overwrite:
            own.clear()
            own = None
        record = folder / RUN_FILE
        if own is not None and record.exists():
            settings = _taken_up(record, settings, free, resume)
        own = own or OwnFiles(folder)
        own.add(LIST_FILE, RUN_FILE, LOG_FILE, METRICS_FILE)
        write_json(record, settings)
        return RunFolder(folder, own, lock, settings)
    except BaseException:
        lock.release()
        raise


def refuse_foreign(folder: Path) -> None:
    """Refuse a folder that is not empty and in which no run listed its files.

    Raises:
        FileExistsError: If it is one.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file. Choose another output_dir.")
    if (folder / LIST_FILE).exists() or not folder.exists():
        return
    started = {LOCK_FILE, LIST_FILE + TEMPORARY}  # what a run killed at once leaves
    if any(path.name not in started for path in folder.iterdir()):
        raise FileExistsError(
            f"{folder} is not empty and holds no run of this program (it has no {LIST_FILE}). Choose another one."
        )


def refuse_run(folder: Path) -> NoReturn:
    """Say that there is a run.

    Raises:
        FileExistsError: Always.
    """
    raise FileExistsError(
        f"{folder} holds a run already. Choose another output_dir, go on with --resume, or delete it with "
        "--overwrite_output_dir."
    )


def _taken_up(record: Path, settings: dict[str, object], free: frozenset[str], resume: bool) -> dict[str, object]:
    """Settings of the run that is there, if it may be resumed with these."""
    if not resume:
        refuse_run(record.parent)
    before = read_json(record, "It holds the settings of the run; start over with --overwrite_output_dir.")
    if not isinstance(before, dict):
        raise ValueError(f"{record} holds no settings of a run; start over with --overwrite_output_dir.")
    before = with_new_names(before)
    # Facts that are confirmed later are no settings yet.
    known = {name: value for name, value in before.items() if name in settings or name not in CONFIRMED}
    check_same(record.parent, known, settings, free | (ADDED - before.keys()))
    _refuse_restart(record.parent, bool(before.get("no_checkpoints")), bool(settings.get("no_checkpoints")))
    return {**before, **settings}


def _refuse_restart(folder: Path, without: bool, without_now: bool) -> None:
    """Refuse to resume a run that would start over, and write over what it trained.

    One that was killed before its first checkpoint may start over: it ends where it would have.

    Args:
        folder (`Path`): Of the run.
        without (`bool`): Whether the run saved no checkpoints.
        without_now (`bool`): Whether it is to save none from now on.

    Raises:
        ValueError: If it would.
    """
    saved = any(NAME.fullmatch(path.name) for path in folder.iterdir())
    if saved and without_now:
        raise ValueError(
            f"The run in {folder} has checkpoints, and with --no_checkpoints it would start over. Leave "
            "--no_checkpoints out to go on, or start over with --overwrite_output_dir."
        )
    if not saved and ((folder / METRICS_FILE).exists() or (without and (folder / BEST_WEIGHTS).exists())):
        raise ValueError(
            f"The run in {folder} has no checkpoint to go on from: --resume would train it again and write over its "
            "weights. Train it again with --overwrite_output_dir, or push its folder model with python -m "
            "mona_peft.finetuning.pushing."
        )


# Settings that runs written earlier do not have; they take them up.
ADDED = frozenset({"annotation_fingerprint", "exif_frame", "shuffle_buffer"})
# Facts that are known once processes and model are there. Runs written before a fact was recorded take it up.
CONFIRMED = frozenset({"base_weights", "num_processes"})


def check_same(folder: Path, before: Mapping[str, object], now: Mapping[str, object], free: frozenset[str]) -> None:
    """Refuse to resume under settings that change what is computed.

    Raises:
        ValueError: If one differs.
    """
    differing = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    differing = [name for name in differing if name not in free]
    if differing:
        listed = "; ".join(f"{name}: {_difference(before.get(name), now.get(name))}" for name in differing)
        raise ValueError(
            f"The run in {folder} cannot be resumed with other settings ({listed}). Give it the same, or start over "
            "with --overwrite_output_dir or in another output_dir."
        )


def _difference(before: object, now: object) -> str:
    """Two values, of long lists only what differs."""
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now) > 3:
        pairs = [(one, other) for one, other in zip(before, now, strict=True) if one != other]
        before, now = (list(values) for values in zip(*pairs[:3], strict=True))
    return f"{before!r:.200} then, {now!r:.200} now"


class FigureLog:
    """Appends records to `metrics.jsonl`, one JSON object a line.

    Args:
        path (`Path`): The file.
        from_step (`int`): Records of later steps are dropped, as a resumed run writes them again.
    """

    def __init__(self, path: Path, from_step: int = 0) -> None:
        self.path = path
        kept = [record for record in read_log(path) if record["step"] <= from_step] if from_step else []
        with replacing(path) as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")

    def write(self, kind: str, step: int, epoch: float, **figures: object) -> None:
        """Append one record.

        Args:
            kind (`str`): `train`, or the split that was evaluated.
            step (`int`): Optimiser steps done.
            epoch (`float`): Epochs done.
            **figures: JSON values.
        """
        record = {"kind": kind, "step": step, "epoch": round(epoch, 4), **figures}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def read_log(path: Path) -> list[Json]:
    """Records of a `metrics.jsonl`.

    A last line cut off by a kill is left out; so is a damaged one, with a warning that names it.

    Raises:
        ValueError: If it is no file.
    """
    if not path.exists():
        return []
    if not path.is_file():
        raise ValueError(f"{path} is no file. It holds the log of the run; put it back from a copy, or delete it.")
    records = []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict) and isinstance(record.get("step"), int) and isinstance(record.get("kind"), str):
            records.append(record)
        elif number < len(lines):  # the last is empty, or was not finished
            warnings.warn(f"{path}, line {number} is damaged and left out: {line:.60}", stacklevel=2)
    return records
