"""Recipes with odd values: a setting is read as its type and range say, or refused by name."""

from __future__ import annotations

import json
import math
import random
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from mona_peft.finetuning.command_line import parse_arguments
from mona_peft.finetuning.data.sources.classification import DataConfig
from mona_peft.finetuning.settings import check_values
from mona_peft.finetuning.tasks.classification import ClassificationConfig
from mona_peft.finetuning.training.config import TrainingConfig

from .mangle import mangle_bytes, odd_value

CONFIGS = (DataConfig, ClassificationConfig, TrainingConfig)


def attack(rng: random.Random, folder: Path) -> None:
    """Read a recipe with one to three odd settings, or one whose bytes are spoilt."""
    names = [field.name for config in CONFIGS for field in fields(config)]
    recipe: dict[str, Any] = {rng.choice(names): odd_value(rng) for _ in range(rng.choice([1, 1, 3]))}
    if rng.random() < 0.1:
        recipe["no_such_setting"] = 1
    text = yaml.safe_dump(recipe) if rng.random() < 0.7 else json.dumps(recipe)
    data = text.encode()
    path = folder / "recipe.yaml"
    path.write_bytes(mangle_bytes(rng, data) if rng.random() < 0.3 else data)
    for config in parse_arguments(CONFIGS, [str(path)]):
        check_values(type(config), vars(config))
        numbers = [value for value in vars(config).values() if isinstance(value, float)]
        assert all(map(math.isfinite, numbers)), numbers
