"""What a command is to the one that finds and runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mona_peft.finetuning.arguments import Program

from .layout import TITLES, group_of, is_common

Job = Callable[[], object]


@dataclass(frozen=True)
class Command:
    """One command.

    Args:
        about (`str`): What it does, in a line.
        read (`Callable`): Reads its words, checks them all, and gives back what is to be done.
    """

    about: str
    read: Callable[[Sequence[str]], Job]


def program(name: str, about: str, examples: Sequence[str] = (), **more: Any) -> Program:
    """Texts of the help of `mona-peft NAME`.

    Args:
        name (`str`): Words of the command.
        about (`str`): What it does.
        examples (`Sequence[str]`): Arguments of commands to copy.
        **more: Further fields of `Program`.
    """
    shown = "\n".join(f"  mona-peft {name} {words}".rstrip() for words in examples)
    layout: dict[str, Any] = {"group_of": group_of, "is_common": is_common, "titles": TITLES} | more
    return Program(f"mona-peft {name}", about, f"examples:\n{shown}" if shown else "", **layout)
