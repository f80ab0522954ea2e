"""The command line of settings: one flag a field, help in groups, and an error of one line.

argparse, and no library that reads dataclasses by itself: types, ranges and the words of a recipe have one reader,
`settings`, which a second one would have to repeat.
"""

from __future__ import annotations

import argparse
import difflib
import itertools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import NoReturn, get_origin, get_type_hints

from .settings import refusals

HELP_FLAGS = ("-h", "--help", "--help-all")


@dataclass(frozen=True)
class Program:
    """What a help text says besides the settings.

    Args:
        name (`str`): How the command is called; that of the script if empty.
        about (`str`): What it does.
        examples (`str`): Commands to copy.
        group_of (`Callable`): Title of the group of a setting: `group_of(config_type, name)`.
        titles (`Sequence[str]`): Of the groups that come first, in this order.
        is_common (`Callable`): Whether `--help` shows a setting, or `--help-all` alone.
        defaults (`Mapping[str, str]`): What to say of defaults that are not those of the dataclass.
        positionals (`str`): What the usage names before the flags.
    """

    name: str = ""
    about: str = ""
    examples: str = ""
    group_of: Callable[[type, str], str] = lambda config_type, name: first_line(config_type)
    is_common: Callable[[type, str], bool] = lambda config_type, name: True
    titles: Sequence[str] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)
    positionals: str = "[RECIPE]"


class Parser(argparse.ArgumentParser):
    """A flag for each field of some dataclasses; the result has only those that are given.

    Args:
        config_types (`Sequence[type]`): Dataclasses with disjoint field names.
        program (`Program`): Groups and texts.
        everything (`bool`): Whether the help shows all settings.
    """

    def __init__(self, config_types: Sequence[type], program: Program, everything: bool = False) -> None:
        super().__init__(
            prog=program.name or None,
            description=program.about or None,
            epilog=program.examples or None,
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
            add_help=False,
            formatter_class=_Formatter,
        )
        self.usage = f"{self.prog} {program.positionals} [--setting VALUE ...]".replace("  ", " ")
        self.refusals = refusals(config_types)
        groups = {title: self.add_argument_group(title) for title in program.titles}
        for config_type in config_types:
            hints = get_type_hints(config_type)
            for entry in fields(config_type):
                title = program.group_of(config_type, entry.name)
                group = groups.get(title) or groups.setdefault(title, self.add_argument_group(title))
                shown = everything or program.is_common(config_type, entry.name)
                default = program.defaults.get(entry.name, _default_text(entry))
                text = f"{entry.metadata.get('help', '')}{default}".replace("%", "%%")
                add_flag(group, entry, hints[entry.name], text if shown else argparse.SUPPRESS)
        more = self.add_argument_group("help")
        if "RECIPE" in program.positionals:
            more.add_argument("--recipe", metavar="NAME_OR_FILE", help="A packaged recipe or a YAML file; as RECIPE.")
        more.add_argument("-h", "--help", action="help", help="Show the common settings.")
        more.add_argument("--help-all", action="help", help="Show all settings.")
        if program.name:
            more.add_argument("--debug", action="store_true", help="Show the traceback of an error.")

    def error(self, message: str) -> NoReturn:
        """End with one line that names the nearest flag there is, in place of the whole usage."""
        words = message.rpartition("unrecognized arguments: ")[2].split()
        refused = next((place for place, word in enumerate(words) if _name_of(word) in self.refusals), None)
        if refused is not None and "unrecognized" in message:
            given = [words[refused], *itertools.takewhile(lambda word: not word.startswith("-"), words[refused + 1 :])]
            self.exit(2, f"{self.prog}: {' '.join(given)} has no place here: {self.refusals[_name_of(given[0])]}\n")
        unknown = words[0].partition("=")[0]
        flags = [flag for action in self._actions for flag in action.option_strings]
        near = difflib.get_close_matches(unknown.replace("-", "_"), [flag.replace("-", "_") for flag in flags], 1)
        hint = next((flag for flag in flags if near and flag.replace("-", "_") == near[0]), None)
        hint = f" Is {hint} meant?" if hint and "unrecognized" in message else ""
        self.exit(2, f"{self.prog}: {message}.{hint} See --help.\n")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Flags in a column of their own, as wide as the terminal, up to 119 characters."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=min(shutil.get_terminal_size().columns, 119))


def add_flag(group: argparse._ArgumentGroup, entry: Field, hint: object, text: str) -> None:
    """Add the flag of a field; a switch that is on is turned off by `--no_` and its name."""
    flag = flag_of(entry.name)
    if hint is bool:
        group.add_argument(flag, dest=entry.name, nargs="?", const=True, help=text, metavar="yes")
        if default_of(entry) is True:
            off = flag.replace("--", "--no_", 1)
            group.add_argument(off, dest=entry.name, action="store_false", help=argparse.SUPPRESS)
    else:
        many = "+" if get_origin(hint) is list else None
        group.add_argument(flag, dest=entry.name, nargs=many, metavar="VALUE", help=text)


def split_name(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The name that a command line begins with, `None` if that is a flag or nothing, and the words after it."""
    words = list(words)
    return (words[0], words[1:]) if words and not words[0].startswith("-") else (None, words)


def _name_of(word: str) -> str:
    """The setting that a word of the command line may give."""
    return word.partition("=")[0].removeprefix("--").replace("-", "_")


def flag_of(name: str) -> str:
    """How a setting is written on the command line."""
    return f"--{name}"


def default_of(entry: Field) -> object:
    """Default of a field."""
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


def first_line(config_type: type) -> str:
    """Title of the settings of a dataclass: the first line of its docstring."""
    return (config_type.__doc__ or config_type.__name__).splitlines()[0].rstrip(".")


def _default_text(entry: Field) -> str:
    default = default_of(entry)
    if default is None or default is False or default in ("", [], {}):
        return ""
    if isinstance(default, list):
        default = " ".join(map(str, default))
    return f" (default: {default})"
