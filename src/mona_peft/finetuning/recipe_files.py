"""YAML recipes, whose words stay as they are written until their field tells the type: `no` is not false."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from .settings import refusals


class _WordLoader(yaml.SafeLoader):
    """YAML whose scalars stay words; only null is told apart."""


_WordLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag == "tag:yaml.org,2002:null"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_recipe(path: Path, config_types: Sequence[type]) -> dict[str, object]:
    """Read a YAML recipe: one flat mapping of settings.

    Returns:
        `dict[str, object]`: Settings as words, which their fields read; values that are mappings as YAML has them.

    Raises:
        ValueError: If it is no mapping, or names a setting that none of `config_types` has.
    """
    settings = read_mapping(path)
    known = {entry.name for config_type in config_types for entry in fields(config_type)}
    unknown = sorted(str(name) for name in settings.keys() - known)
    reasons = refusals(config_types)
    for name in unknown:
        if name in reasons:
            raise ValueError(f"{path} sets {name}: {settings[name]}, which has no place here: {reasons[name]}")
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
