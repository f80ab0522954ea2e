"""Run hostile cases in a process of their own, and judge how each of them ends.

A case is a seed. Its function makes files in a folder of its own and calls the package as a user would. It has to end
in a right result, which the function itself checks, or in an error of the package that names what is wrong; within a
bound on time and memory; without a file written or deleted outside of the case's folder, a program started, a
connection opened, or code of the case's files run.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import datasets

import mona_peft
from mona_peft.finetuning.validation import TRY_EXPRESSIONS

PACKAGE = Path(mona_peft.__file__).parent
SECONDS = 60.0  # a case; on a machine that does other work at the same time
MOST_BAD = 20  # after so many the rest is not run
MEMORY = 3 * 2**30  # bytes of address space beyond what the process starts with

Case = Callable[[random.Random, Path], None]


class Expected(Exception):
    """Raised by a case where the package's refusal was checked by the case itself."""


@dataclass(frozen=True)
class Verdict:
    """How a case ended.

    Args:
        seed (`int`): Of the case.
        problem (`str`): What is wrong with that; empty if nothing is.
    """

    seed: int
    problem: str = ""


def run_cases(case: Case, seeds: range, setup: Callable[[Path], None] | None = None) -> list[Verdict]:
    """Run the cases of `seeds` and give those that ended badly.

    Args:
        case (`Callable`): A function of a module, since other processes call it.
        seeds (`range`): One case each.
        setup (`Callable`, *optional*): Called once a process, with the folder that holds the cases' folders.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mona_peft", "mona_peft.finetuning.training", "tests.hostile.watch"])
    bad: list[Verdict] = []
    left = list(seeds)
    while left:
        if len(bad) > MOST_BAD:
            return bad
        parent, child = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(case, setup, left, child), daemon=True)
        process.start()
        child.close()
        left = _follow(process, parent, left, bad)
        process.kill()
        process.join()
    return bad


def _follow(process: Any, pipe: Connection, seeds: list[int], bad: list[Verdict]) -> list[int]:
    """Take verdicts from a process until it is done, or stuck, or dead; gives the seeds that are left."""
    for place, seed in enumerate(seeds):
        try:
            if not pipe.poll(SECONDS * (3 if place == 0 else 1)):  # the first waits for the imports and the setup, too
                bad.append(Verdict(seed, f"not done within {SECONDS:.0f} seconds"))
                return seeds[place + 1 :]
            verdict = pipe.recv()
        except EOFError:
            process.join()
            bad.append(Verdict(seed, f"the process died with exit code {process.exitcode}"))
            return seeds[place + 1 :]
        if verdict.problem:
            bad.append(verdict)
    return []


def _work(case: Case, setup: Callable[[Path], None] | None, seeds: list[int], pipe: Connection) -> None:
    """Run cases one after another in this process and send a verdict of each."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    root = Path(tempfile.mkdtemp(prefix="hostile-"))
    datasets.config.HF_DATASETS_CACHE = root / "cache"
    try:
        if setup is not None:
            setup(root)
        _limit_memory()
        watch = Watch(root)
        sys.addaudithook(watch.hook)
        for seed in seeds:
            pipe.send(_judge(case, seed, root, watch))
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _judge(case: Case, seed: int, root: Path, watch: Watch) -> Verdict:
    folder = root / f"case-{seed}"
    folder.mkdir()
    problem = ""
    with watch.watching(folder):
        try:
            case(random.Random(seed), folder)
        except Expected:
            pass
        except BaseException as error:
            if not is_ours(error):
                problem = "".join(traceback.format_exception(error)[-6:])
    shutil.rmtree(folder, ignore_errors=True)
    return Verdict(seed, problem or "; ".join(watch.seen))


def is_ours(error: BaseException) -> bool:
    """Whether an error was raised by this package, on purpose: from its own code and with a message."""
    frames = traceback.extract_tb(error.__traceback__)
    raised_here = bool(frames) and Path(frames[-1].filename).is_relative_to(PACKAGE)
    on_purpose = raised_here and (frames[-1].line or "").lstrip().startswith(("raise", "sys.exit"))
    return on_purpose and len(str(error)) > 20


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


#: The one process that loading may start: regular expressions of PEFT's own methods are tried where they can be ended.
TRIAL = [sys.executable, "-I", "-c", TRY_EXPRESSIONS]


class Watch:
    """Notes what a case must not do, as CPython's audit events tell it.

    Args:
        root (`Path`): Folder of the process; cases may write below their own folder, in it and in caches next to it.
    """

    WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    FORBIDDEN = (
        "subprocess.Popen",
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.fork",
        "socket.connect",
    )
    CHANGING = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.symlink", "os.link", "os.truncate")

    def __init__(self, root: Path) -> None:
        self.root = root
        self.active = False
        self.seen: list[str] = []

    @contextlib.contextmanager
    def watching(self, folder: Path) -> Iterator[None]:
        """Note what happens within this context."""
        self.folder, self.seen, self.active = folder, [], True
        try:
            yield
        finally:
            self.active = False

    def hook(self, event: str, args: tuple) -> None:
        """See `sys.addaudithook`."""
        if not self.active:
            return
        if event == "subprocess.Popen" and list(args[1]) == TRIAL:
            return
        if event in self.FORBIDDEN:
            self.seen.append(f"{event}{args[:2]!r}")
        elif event == "open" and isinstance(args[0], str | bytes | os.PathLike) and (args[2] or 0) & self.WRITING:
            self._check(event, args[0])
        elif event in self.CHANGING:
            touched = args[1:2] if event in ("os.symlink", "os.link") else args[: 2 if event == "os.rename" else 1]
            for path in touched:
                self._check(event, _full_path(path, args), follow=False)
        elif event == "exec" and args and self._is_inside(getattr(args[0], "co_filename", "")):
            self.seen.append(f"code of {args[0].co_filename} was run")

    def _check(self, event: str, path: Any, follow: bool = True) -> None:
        if isinstance(path, str | bytes | os.PathLike) and not self._is_allowed(os.fsdecode(path), follow):
            self.seen.append(f"{event} of {os.fsdecode(path)}")

    def _is_allowed(self, path: str, follow: bool) -> bool:
        """Whether a path may be written or changed; what removes or renames a link leaves its target alone."""
        allowed = (str(self.root), "/dev/null", "/dev/shm", tempfile.gettempdir())
        folder, name = os.path.split(path)
        full = os.path.realpath(path) if follow else os.path.join(os.path.realpath(folder), name)
        return full.startswith(allowed) or "__pycache__" in full

    def _is_inside(self, path: str) -> bool:
        return bool(path) and os.path.realpath(path).startswith(str(self.folder))


def _full_path(path: Any, args: tuple) -> Any:
    """A path that an event gives, which may be relative to an open folder."""
    folder = args[-1]
    if isinstance(path, str) and isinstance(folder, int) and folder >= 0 and not os.path.isabs(path):
        return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
    return path
