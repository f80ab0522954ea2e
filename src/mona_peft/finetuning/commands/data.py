"""`mona-peft data check`: what is in a data set, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from mona_peft.finetuning.arguments import split_name
from mona_peft.finetuning.checking.config import CheckConfig
from mona_peft.finetuning.command_line import parse_arguments

from .command import Command, Job, program

ABOUT = "Look at a data set: classes by split, what training would refuse or warn of, a page of pictures."
EXAMPLES = ("photos", "things --task detection --page things.html")


def read(words: Sequence[str]) -> Job:
    """Read `FOLDER` and the settings.

    Raises:
        ValueError: If no folder is named.
    """
    folder, words = split_name(words)
    texts = program("data check", ABOUT, EXAMPLES, positionals="FOLDER")
    (config,) = parse_arguments((CheckConfig,), words, texts)
    if not folder:
        raise ValueError("Name the folder or file to look at: mona-peft data check FOLDER.")
    return partial(run, folder, config)


def run(folder: str, config: CheckConfig) -> object:
    """Look at it."""
    from mona_peft.finetuning.checking.check import check

    return check(folder, config)


COMMANDS = {"check": Command(ABOUT, read)}
