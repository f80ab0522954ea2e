"""Settings as dataclasses: each field explains itself and knows its type and range; a YAML recipe or flags fill them.

Every value is checked before anything is loaded, be it from a recipe, a flag or Python. The words of a recipe stay
as they are written until their field tells the type, so `mixed_precision: no` is the word and not YAML's false.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, field, fields
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

NULLS = ("none", "null", "~", "")
BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
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

    #: Settings that others have and these refuse: why, and what to use.
    refused: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        """Check all fields; a subclass that checks more calls this first.

        Raises:
            ValueError: If a value has the wrong type or is out of range.
        """
        vars(self).update(check_values(type(self), vars(self)))


def refusals(config_types: Iterable[type]) -> dict[str, str]:
    """Why these dataclasses refuse settings that others have, by name."""
    found: dict[str, str] = {}
    for config_type in config_types:
        found |= getattr(config_type, "refused", {})
    return found


def check_values(config_type: type, values: Mapping[str, object], words: bool = False) -> dict[str, Any]:
    """Check values against the annotations and ranges of a dataclass.

    Args:
        config_type (`type`): The dataclass.
        values (`Mapping[str, object]`): By the names of its fields; not all need to be there.
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


def _checked(hint: Any, entry: Field, value: object, words: bool) -> Any:
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


def _read_word(kind: type, word: str) -> object:
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


def read_options(name: str, given: object) -> dict[str, object]:
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


def with_new_names(settings: dict[str, object]) -> dict[str, object]:
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
    configs: Sequence[object],
    used: Sequence[str] = (),
    where: str = "Without --dataset the embedded data is used, with",
) -> None:
    """Check that nothing is set of a run on a data set where none was given.

    Args:
        configs (`Sequence`): Filled dataclasses.
        used (`Sequence[str]`): Names of the settings that count all the same.
        where (`str`): Begins the message: what has settings of its own.

    Raises:
        ValueError: If another setting has a value that is not its default.
    """
    given: dict[str, object] = {}
    for config in configs:
        defaults, values = vars(type(config)()), vars(config)
        given |= {name: value for name, value in values.items() if name not in used and value != defaults[name]}
    if given:
        listed = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise ValueError(
            f"{where} settings of its own; {listed} would have no effect. Give --dataset as well, or leave that out."
        )
