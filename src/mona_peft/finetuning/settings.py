"""Settings as dataclasses: each field explains itself and knows its type and range; a YAML recipe or flags fill them.

Every value is checked before anything is loaded, be it from a recipe, a flag or Python. The words of a recipe stay
as they are written until their field tells the type, so `mixed_precision: no` is the word and not YAML's false.
"""

from __future__ import annotations

import json
import math
import sys
import types
from collections.abc import Iterable, Sequence
from dataclasses import Field, field, fields
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from mona_peft.finetuning import recipes, sections
from mona_peft.finetuning.arguments import Parser, Program

Config = TypeVar("Config")

NULLS = ("none", "null", "~", "")
BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
RECIPE_FLAG = "--recipe"
#: Settings of records written earlier, and what they are called.
RENAMED = {"model_name_or_path": "model"}
KINDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text"}


def option(
    default: Any,
    text: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """A dataclass field with its help sentence and its range.

    Args:
        default (`Any`): Value where none is given. Where it is a mapping, a value may be a mapping or its JSON.
        text (`str`): The help sentence.
        least (`float`, *optional*): Smallest value allowed; of each item, in a list.
        above (`float`, *optional*): Values must be greater.
        most (`float`, *optional*): Greatest value allowed.
        below (`float`, *optional*): Values must be smaller.
        choices (`Sequence[str]`): The words allowed; any if empty.
    """
    limits = {"least": least, "above": above, "most": most, "below": below}
    metadata = {"help": text, "limits": limits, "choices": tuple(choices)}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


class Settings:
    """Base of the dataclasses of settings: checks every field when it is made, and reads mappings given as JSON."""

    def __post_init__(self) -> None:
        """Check all fields; a subclass that checks more calls this first.

        Raises:
            ValueError: If a value has the wrong type or is out of range.
        """
        vars(self).update(check_values(type(self), vars(self)))


def check_values(config_type: type, values: dict[str, Any], words: bool = False) -> dict[str, Any]:
    """Check values against the annotations and ranges of a dataclass.

    Args:
        config_type (`type`): The dataclass.
        values (`dict[str, Any]`): By the names of its fields; not all need to be there.
        words (`bool`): Whether texts are read as what the field's type says, as from a command line.

    Returns:
        `dict[str, Any]`: The values, read.

    Raises:
        ValueError: If a value has the wrong type or is out of range; names setting and value.
    """
    hints = get_type_hints(config_type)
    known = {entry.name: entry for entry in fields(config_type)}
    checked = {}
    for name, value in values.items():
        if get_origin(hints[name]) is dict:
            checked[name] = read_options(name, value)
            continue
        try:
            checked[name] = _checked(hints[name], known[name], value, words)
        except _Unfit as error:
            raise ValueError(f"{name} is {value!r}; it must be {error}.") from None
    return checked


class _Unfit(Exception):
    """A value does not fit; the message says what would."""


def _checked(hint: Any, entry: Field, value: Any, words: bool) -> Any:
    """The value, read by its type.

    Raises:
        `_Unfit`: If it is of another type or out of range.
    """
    optional = get_origin(hint) in (Union, types.UnionType)
    if optional:
        if value is None or (words and isinstance(value, str) and value.lower() in NULLS):
            return None
        (hint,) = (kind for kind in get_args(hint) if kind is not type(None))
    if get_origin(hint) is list:
        (kind,) = get_args(hint)
        items = [value] if words and isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise _Unfit(f"a list, each item {KINDS[kind]}")
        return [_single(kind, entry, item, words, "a list, each item ") for item in items]
    return _single(hint, entry, value, words, "none or " if optional else "")


def _single(kind: type, entry: Field, value: Any, words: bool, before: str) -> Any:
    """One value of a plain type."""
    if words and isinstance(value, str):
        value = _read_word(kind, value)
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        fits = True
    if not fits or (kind is float and not math.isfinite(value)):
        raise _Unfit(before + KINDS[kind] + _range_text(entry))
    limits, choices = entry.metadata.get("limits", {}), entry.metadata.get("choices", ())
    if choices and value not in choices:
        raise _Unfit(f"{before}one of {', '.join(choices)}")
    if kind in (int, float) and not _within(value, limits):
        raise _Unfit(before + KINDS[kind] + _range_text(entry))
    return value


def _read_word(kind: type, word: str) -> Any:
    """What a word means as this type; the word itself where it means nothing."""
    if kind is bool:
        return BOOLEANS.get(word.lower(), word)
    try:
        return kind(word)
    except ValueError:
        return word


def _within(value: float, limits: dict[str, float | None]) -> bool:
    least, above, most, below = (limits.get(name) for name in ("least", "above", "most", "below"))
    return (
        (least is None or value >= least)
        and (above is None or value > above)
        and (most is None or value <= most)
        and (below is None or value < below)
    )


def _range_text(entry: Field) -> str:
    """The range in words, such as ", at least 1"."""
    words = {"least": "at least", "above": "above", "most": "at most", "below": "below"}
    limits = entry.metadata.get("limits", {})
    given = [f"{words[name]} {limit:g}" for name, limit in limits.items() if limit is not None]
    return ", " + " and ".join(given) if given else ""


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
    found = [words.pop(0)] if words and not words[0].startswith("-") else []
    for place in [i for i, word in enumerate(words) if word.partition("=")[0] == RECIPE_FLAG][::-1]:
        word = words.pop(place)
        named = word.partition("=")[2] or (words.pop(place) if place < len(words) else "")
        if not named or named.startswith("-"):
            raise ValueError(f"{RECIPE_FLAG} needs the name of a recipe or a YAML file.")
        found.append(named)
    if len(found) > 1:
        raise ValueError(f"There are two recipes, {' and '.join(found)}; give one.")
    return words, found[0] if found else ""


def _apply_sections(recipe: dict[str, Any], given: dict[str, Any], default: str, every_method: bool) -> None:
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


def _fill(config_type: type[Config], recipe: dict[str, Any], given: dict[str, Any], source: str) -> Config:
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


class _WordLoader(yaml.SafeLoader):
    """YAML whose scalars stay words; only null is told apart."""


_WordLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag == "tag:yaml.org,2002:null"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_recipe(path: Path, config_types: Sequence[type]) -> dict[str, Any]:
    """Read a YAML recipe: one flat mapping of settings.

    Returns:
        `dict[str, Any]`: Settings as words, which their fields read; values that are mappings as YAML has them.

    Raises:
        ValueError: If it is no mapping, or names a setting that none of `config_types` has.
    """
    settings = read_mapping(path)
    known = {entry.name for config_type in config_types for entry in fields(config_type)}
    unknown = sorted(str(name) for name in settings.keys() - known)
    if unknown:
        raise ValueError(f"{path} has unknown settings: {', '.join(unknown)}. Known are: {', '.join(sorted(known))}.")
    return settings


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML recipe as [`read_recipe`] does, whatever its settings are.

    Raises:
        ValueError: If it is no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
        settings = yaml.load(text, Loader=_WordLoader)
        if isinstance(settings, dict) and any(isinstance(value, dict) for value in settings.values()):
            typed = yaml.safe_load(text)
            settings |= {name: typed.get(name) for name, value in settings.items() if isinstance(value, dict)}
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"The recipe {path} cannot be read: {error}") from error
    settings = {} if settings is None else settings
    if not isinstance(settings, dict):
        raise ValueError(f"{path} must be a mapping of settings, such as 'learning_rate: 0.001'.")
    return settings


def read_options(name: str, given: Any) -> dict[str, Any]:
    """Settings given as JSON or as a mapping.

    Args:
        name (`str`): Of the setting, for the message.
        given (`str` or `dict`): What was given.

    Raises:
        ValueError: If it is neither.
    """
    try:
        options = json.loads(given) if isinstance(given, str) else given
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is no JSON: {given!r} ({error}).") from error
    if not isinstance(options, dict):
        raise ValueError(f"{name} is {given!r}; it must be a mapping, or the JSON of one.")
    return options


def with_new_names(settings: dict[str, Any]) -> dict[str, Any]:
    """Recorded settings under the names that they have now."""
    return {RENAMED.get(name, name): value for name, value in settings.items()}


def check_names(owner: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse settings that nothing reads.

    Args:
        owner (`str`): What they were given to, for the message.
        given (`Iterable[str]`): Names.
        known (`Iterable[str]`): Those that it has.

    Raises:
        ValueError: If a name is not known.
    """
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"{owner} has no setting {', '.join(unknown)}; it has {', '.join(sorted(known)) or 'none'}.")


def refuse_unused(
    configs: Sequence[Any], used: Sequence[str] = (), where: str = "Without --dataset the embedded data is used, with"
) -> None:
    """Check that nothing is set of a run on a data set where none was given.

    Args:
        configs (`Sequence`): Filled dataclasses.
        used (`Sequence[str]`): Names of the settings that count all the same.
        where (`str`): Begins the message: what has settings of its own.

    Raises:
        ValueError: If another setting has a value that is not its default.
    """
    given: dict[str, Any] = {}
    for config in configs:
        defaults, values = vars(type(config)()), vars(config)
        given |= {name: value for name, value in values.items() if name not in used and value != defaults[name]}
    if given:
        listed = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise ValueError(
            f"{where} settings of its own; {listed} would have no effect. Give --dataset as well, or leave that out."
        )
