"""Finds the command that the words name, and runs it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib.metadata import version

from mona_peft.finetuning.arguments import HELP_FLAGS

from . import app, benchmark, data, demo, export, inspect, plan, predict, recipes, studies, train
from .command import Command, Job
from .errors import one_line, quiet

Commands = Mapping[str, "Command | Commands"]

COMMANDS: Commands = {
    "train": train.COMMANDS,
    "predict": predict.COMMAND,
    "compare": studies.COMPARE_COMMAND,
    "ablate": studies.ABLATE_COMMAND,
    "average": studies.AVERAGE_COMMAND,
    "plan": plan.COMMAND,
    "benchmark": benchmark.COMMAND,
    "demo": demo.COMMAND,
    "data": data.COMMANDS,
    "export": export.COMMAND,
    "app": app.COMMAND,
    "inspect": inspect.COMMAND,
    "recipes": recipes.COMMAND,
}
DEBUG_FLAG = "--debug"
FIRST_STEPS = """first steps:
  mona-peft demo --demo_size tiny                       see that everything works, offline
  mona-peft train classification --dataset photos       photos/CLASS/*.jpg, or photos/train/CLASS/*.jpg
  mona-peft predict --model outputs/photos-mona/model --images new.jpg

Every command has --help, --help-all, and --debug for the traceback of an error."""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command `mona-peft`.

    Args:
        words (`Sequence[str]`, *optional*): `sys.argv[1:]` if left out.

    Returns:
        `int`: Exit code: 0, 1 for an error on the way, 2 for a command line that cannot be.
    """
    words = list(sys.argv[1:] if words is None else words)
    debug = DEBUG_FLAG in words
    words = [word for word in words if word != DEBUG_FLAG]
    code = 2
    try:
        job = find(words)
        code = 1
        with nullcontext() if debug else quiet():
            job()
        return 0
    except BrokenPipeError:
        return code  # who reads has seen enough
    except KeyboardInterrupt:
        if debug:
            raise
        print("Interrupted.", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            raise
        print(f"Error: {one_line(error)}", file=sys.stderr)
        return code


def run(*words: str) -> object:
    """Run a command from Python: its result comes back, errors are raised.

    Args:
        *words: Of the command line.
    """
    return find(words)()


def find(words: Sequence[str], commands: Commands | None = None, before: str = "mona-peft") -> Job:
    """The job that the words ask for, all of them checked.

    Raises:
        ValueError: If there is no such command, or its words cannot be.
        SystemExit: If help was asked for.
    """
    commands = COMMANDS if commands is None else commands
    if words and words[0] == "--version":
        return lambda: print(version("mona-peft"))
    if not words or words[0] in HELP_FLAGS:
        return lambda: print(overview(commands, before))
    word = words[0]
    if word not in commands:
        raise ValueError(f"{before} has no command {word!r}; choose one of {', '.join(commands)}.")
    found = commands[word]
    return found.read(words[1:]) if isinstance(found, Command) else find(words[1:], found, f"{before} {word}")


def overview(commands: Commands, before: str) -> str:
    """The commands there are, a line each."""
    rows = []
    for word, found in commands.items():
        if isinstance(found, Command):
            rows.append((word, found.about))
        elif word == "train":
            rows.append((f"{word} {'|'.join(found)}", "Fine-tune on your own images."))
        else:
            rows += [(f"{word} {one}", inner.about) for one, inner in found.items() if isinstance(inner, Command)]
    lines = "\n".join(f"  {word}\n      {about}" for word, about in rows)
    return f"usage: {before} COMMAND [--setting VALUE ...]\n\n{lines}\n\n{FIRST_STEPS}"


def exit_with(*before: str) -> None:
    """What a script does: run the command that `before` names with the words of its command line, and exit.

    Args:
        *before: Words before those of the command line.
    """
    sys.exit(main([*before, *sys.argv[1:]]))
