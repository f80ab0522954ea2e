"""Checks the fields of a configuration against their annotations: a configuration file may hold anything."""

from __future__ import annotations

import dataclasses
import math
import reprlib
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

WORDS = {str: "a string", int: "a whole number", float: "a finite number", bool: "True or False", type(None): "None"}
PLURALS = {str: "strings", int: "whole numbers"}


def check_field_types(config: Any) -> None:
    """Refuse values of other types than their fields have.

    Args:
        config (`PeftConfig`): A dataclass; a field for a list or a tuple may hold either, or a set.

    Raises:
        ValueError: Naming the field, the value and what it may be.
    """
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not fits(value, hints[field.name]):
            raise ValueError(
                f"{field.name}={reprlib.repr(value)} must be {describe(hints[field.name])}. Correct it where the "
                f"{type(config).__name__} is made, or in its adapter_config.json."
            )


def fits(value: Any, annotation: Any) -> bool:
    """Whether `value` is of the type `annotation`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is Literal:
        return type(value) in {type(argument) for argument in arguments}  # the configuration checks which of them
    if origin in (list, tuple):
        return isinstance(value, (list, tuple, set)) and all(fits(item, arguments[0]) for item in value)
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, annotation)


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
