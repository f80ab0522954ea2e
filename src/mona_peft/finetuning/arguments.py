"""Command lines that are a YAML recipe, flags, or a recipe with flags over it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser


def parse_arguments(types: Sequence[type], arguments: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Fill dataclasses from `[recipe.yaml] [--flag value ...]`; flags win over the recipe.

    Args:
        types (`Sequence[type]`): dataclasses with disjoint field names.
        arguments (`Sequence[str]`, *optional*): `sys.argv[1:]` if left out.

    Raises:
        `ValueError`: if the recipe names a setting that does not exist.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = HfArgumentParser(list(types))  # type: ignore[arg-type]
    if words and words[0].endswith((".yaml", ".yml")):
        parser.set_defaults(**read_recipe(Path(words.pop(0)), types))
    return parser.parse_args_into_dataclasses(args=words)


def read_recipe(path: Path, types: Sequence[type]) -> dict[str, Any]:
    """Read a YAML recipe: one flat mapping of settings.

    Raises:
        `ValueError`: if it is no mapping, or names a setting that none of `types` has.
    """
    settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(settings, dict):
        raise ValueError(f"{path} must be a mapping of settings, such as 'learning_rate: 0.001'.")
    known = {field.name for type_ in types for field in fields(type_)}
    unknown = sorted(settings.keys() - known)
    if unknown:
        raise ValueError(f"{path} has unknown settings: {', '.join(unknown)}. Known are: {', '.join(sorted(known))}.")
    return settings


def refuse_unused(configs: Sequence[Any], used: Sequence[str] = ()) -> None:
    """Check that nothing is set of a run on a data set where none was given.

    Args:
        configs (`Sequence`): filled dataclasses.
        used (`Sequence[str]`): names of the settings that count all the same.

    Raises:
        `ValueError`: if another setting has a value that is not its default.
    """
    given: dict[str, Any] = {}
    for config in configs:
        defaults, values = vars(type(config)()), vars(config)
        given |= {name: value for name, value in values.items() if name not in used and value != defaults[name]}
    if given:
        listed = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise ValueError(
            f"Without --dataset the embedded data is used, with settings of its own; {listed} would have no effect. "
            "Give --dataset as well, or leave that out."
        )
