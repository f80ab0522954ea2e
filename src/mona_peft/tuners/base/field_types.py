"""Checks the fields of a configuration against their annotations: a configuration file may hold anything."""

from __future__ import annotations

import dataclasses
import math
import reprlib
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from peft import PeftConfig

WORDS = {str: "a string", int: "a whole number", float: "a finite number", bool: "True or False", type(None): "None"}
PLURALS = {str: "strings", int: "whole numbers"}


def check_field_types(config: PeftConfig) -> None:
    """Refuse values of other types than their fields have.

    Args:
        config (`PeftConfig`): A dataclass; a field for a list or a tuple may hold either, or a set.

    Raises:
        ValueError: If there is one; names the field, the value and what it may be.
    """
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not fits(value, hints[field.name]):
            raise ValueError(
                f"{field.name}={reprlib.repr(value)} must be {describe(hints[field.name])}. Correct it where the "
                f"{type(config).__name__} is made, or in its adapter_config.json."
            )


def fits(value: object, annotation: Any, from_file: bool = False) -> bool:
    """Whether `value` is of the type `annotation`.

    Args:
        value (`object`): The value.
        annotation (`type`): Of a field; a list, a tuple and a set stand for each other.
        from_file (`bool`): Whether the value comes from JSON, of which the configuration makes what is no plain type,
            and which no configuration has checked.
    """
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if origin in (Union, types.UnionType):
        return any(fits(value, argument, from_file) for argument in arguments)
    if origin is Literal:  # of a value that is not from a file, the configuration checks which of them
        return value in arguments if from_file else type(value) in {type(argument) for argument in arguments}
    if origin in (list, tuple, set):
        kinds = [argument for argument in arguments if argument is not Ellipsis]
        return isinstance(value, (list, tuple, set)) and all(
            not kinds or any(fits(item, kind, from_file) for kind in kinds) for item in value
        )
    if origin is dict:
        return isinstance(value, dict)
    if origin is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if origin is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if from_file and origin not in (str, bool, type(None)):
        return True
    return isinstance(value, origin)


def describe(annotation: Any) -> str:
    """The type `annotation` in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(argument) for argument in arguments))
    if origin is Literal:
        return " or ".join(repr(argument) for argument in arguments)
    if origin in (list, tuple):
        return f"a list of {PLURALS.get(arguments[0], f'`{arguments[0].__name__}`')}"
    return WORDS.get(annotation, f"a `{annotation.__name__}`")
