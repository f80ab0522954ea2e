"""`mona-peft demo`: three methods on data that comes with the package, offline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from mona_peft.finetuning.arguments import split_name
from mona_peft.finetuning.command_line import parse_arguments
from mona_peft.finetuning.models.names import DENSE_TASKS
from mona_peft.finetuning.settings import Settings, option
from mona_peft.finetuning.study.config import DemoConfig, DenseDemoConfig

from .command import Command, Job, program
from .train import TASK_WORDS, run_demo

ABOUT = "Adapt a small model to scanned digits, or to scenes of them, by three methods, offline."


def read(words: Sequence[str]) -> Job:
    """Read `[TASK] [--flags]`."""
    name, words = split_name(words)
    word = "classification" if name is None else name
    if word not in TASK_WORDS:
        raise ValueError(f"There is no demo {word!r}; choose one of {', '.join(TASK_WORDS)}.")
    texts = program("demo", ABOUT, ("--demo_size tiny", "detection"), positionals=f"[{'|'.join(TASK_WORDS)}]")
    task = TASK_WORDS[word]
    if task not in DENSE_TASKS:
        (demo,) = parse_arguments((DemoConfig,), words, texts)
        return partial(run_demo, task, "", demo)
    known = DENSE_TASKS[task]

    @dataclass
    class ArchitectureConfig(Settings):
        """Neck and heads"""

        architecture: str = option(known[0], f"One of {', '.join(known)}.", choices=known)

    demo, chosen = parse_arguments((DenseDemoConfig, ArchitectureConfig), words, texts)
    return partial(run_demo, task, chosen.architecture, demo)


COMMAND = Command(ABOUT, read)
