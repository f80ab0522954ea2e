"""A command line filled into dataclasses of settings, over a recipe that it may name; flags win."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

from mona_peft.finetuning import recipes

from . import sections
from .arguments import Parser, Program, split_name
from .recipe_files import read_recipe
from .settings import check_values, read_options

Config = TypeVar("Config")

RECIPE_FLAG = "--recipe"


def parse_arguments(
    config_types: Sequence[type],
    arguments: Sequence[str] | None = None,
    program: Program | None = None,
    every_method: bool = False,
) -> tuple[Any, ...]:
    """Fill dataclasses from a command line; see [`read_command_line`]."""
    return read_command_line(config_types, arguments, program, every_method)[0]


def read_command_line(
    config_types: Sequence[type],
    arguments: Sequence[str] | None = None,
    program: Program | None = None,
    every_method: bool = False,
) -> tuple[tuple[Any, ...], frozenset[str]]:
    """Fill dataclasses from `[RECIPE] [--flag value ...]`, a packaged recipe or a file; flags win over the recipe.

    Args:
        config_types (`Sequence[type]`): Dataclasses with disjoint field names.
        arguments (`Sequence[str]`, *optional*): `sys.argv[1:]` if left out.
        program (`Program`, *optional*): Of the help text.
        every_method (`bool`): Whether the settings are for several methods: sections then stay in `by_method`, and are
            not applied.

    Returns:
        The dataclasses, and the names of the settings that recipe and flags gave.

    Raises:
        ValueError: If there is no such recipe, it names a setting that does not exist, or a value has the wrong type
            or range.
        SystemExit: If help was asked for, or there is no such flag.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = Parser(config_types, program or Program(), "--help-all" in words)
    words, source = _take_recipe(words)
    given = vars(parser.parse_args(words))
    recipe = read_recipe(recipes.path(source), config_types) if source else {}
    if any(entry.name == sections.KEY for config_type in config_types for entry in fields(config_type)):
        _apply_sections(recipe, given, _default_method(config_types), every_method)
    filled: tuple[Any, ...] = tuple(_fill(config_type, recipe, given, source) for config_type in config_types)
    return filled, frozenset(recipe) | frozenset(given)


def _take_recipe(words: list[str]) -> tuple[list[str], str]:
    """The command line without its recipe, and the recipe: the first word, or the value of `--recipe`.

    Raises:
        ValueError: If there are two, or `--recipe` has no value.
    """
    name, words = split_name(words)
    found = [] if name is None else [name]
    for place in [i for i, word in enumerate(words) if word.partition("=")[0] == RECIPE_FLAG][::-1]:
        word = words.pop(place)
        named = word.partition("=")[2] or (words.pop(place) if place < len(words) else "")
        if not named or named.startswith("-"):
            raise ValueError(f"{RECIPE_FLAG} needs the name of a recipe or a YAML file.")
        found.append(named)
    if len(found) > 1:
        raise ValueError(f"There are two recipes, {' and '.join(found)}; give one.")
    return words, found[0] if found else ""


def _apply_sections(recipe: dict[str, object], given: dict[str, object], default: str, every_method: bool) -> None:
    """Sort what belongs to one method into its section, and give the method that runs what is in its own."""
    for source in (recipe, given):
        for name in (sections.KEY, "method_options"):
            if name in source:
                source[name] = read_options(name, source[name])
    has_sections = every_method or sections.KEY in {**recipe, **given}
    by_method = sections.sections(recipe, given, default)
    for source in (recipe, given):
        for name in (sections.KEY, "method_options"):
            source.pop(name, None)
    if has_sections:
        recipe[sections.KEY] = by_method
    if not every_method:
        recipe |= sections.settings_for(by_method.get(sections.chosen(recipe, given, default), {}))


def _default_method(config_types: Sequence[type]) -> str:
    return next(str(entry.default) for kind in config_types for entry in fields(kind) if entry.name == "method")


def _fill(config_type: type[Config], recipe: dict[str, object], given: dict[str, object], source: str) -> Config:
    """Make one dataclass of the recipe and the flags."""
    names = [entry.name for entry in fields(config_type)]  # type: ignore[arg-type]
    try:
        values = check_values(config_type, {name: recipe[name] for name in names if name in recipe}, words=True)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    flags = check_values(config_type, {name: given[name] for name in names if name in given}, words=True)
    for name, value in flags.items():
        # Of a mapping, a flag gives single settings; the others stay the recipe's.
        values[name] = {**values.get(name, {}), **value} if isinstance(value, dict) else value
    return config_type(**values)
