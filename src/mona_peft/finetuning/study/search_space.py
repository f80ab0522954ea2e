"""Which settings of a method are searched, and among which values."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from mona_peft.finetuning.methods import METHODS, Method, find_class

if TYPE_CHECKING:
    import optuna

#: The setting that says how much an adapter holds, in the methods that have one: a width or a rank.
SIZES = ("bottleneck_dim", "r")
#: By which factors the size and the rate given may change.
SIZE_FACTORS = (0.25, 0.5, 1, 2)
RATE_FACTOR = 10.0
DROPOUTS = (0.0, 0.1, 0.2, 0.3)
RATE = "learning_rate"


@dataclass(frozen=True)
class SearchSpace:
    """What is searched.

    Args:
        rate (`float`): The learning rate to start from.
        start (`Mapping[str, int | float]`): Settings of the method to start from.
        choices (`Mapping[str, list[int | float]]`): Values of each of them.
    """

    rate: float
    start: Mapping[str, int | float]
    choices: Mapping[str, list[int | float]]

    @property
    def first(self) -> dict[str, int | float]:
        """The settings as they were given: what is tried first."""
        return {RATE: self.rate, **self.start}

    def draw(self, trial: optuna.Trial) -> dict[str, Any]:
        """The settings that Optuna suggests for a trial."""
        rate = trial.suggest_float(RATE, self.rate / RATE_FACTOR, self.rate * RATE_FACTOR, log=True)
        drawn = {name: trial.suggest_categorical(name, values) for name, values in self.choices.items()}
        return {RATE: rate, **drawn}


def search_space(method: str, options: Mapping[str, Any], rate: float) -> SearchSpace:
    """What is searched of a method, around the settings given.

    Args:
        method (`str`): A key of `METHODS`.
        options (`Mapping[str, Any]`): Its settings, as far as they are given.
        rate (`float`): The learning rate given.
    """
    row = METHODS[method]
    choices: dict[str, list[int | float]] = {}
    start: dict[str, int | float] = {}
    for name in sorted(row.options):
        value = options.get(name, _default(row, name)) if name in SIZES or name.endswith("_dropout") else None
        if value is None:
            continue
        around = [int(value * factor) for factor in SIZE_FACTORS] if name in SIZES else [*DROPOUTS, float(value)]
        start[name] = value
        choices[name] = sorted({one for one in around if one > 0 or name not in SIZES})
    return SearchSpace(rate, start, choices)


def _default(method: Method, name: str) -> Any:
    """The value that a setting of a method has if it is not given."""
    own = inspect.signature(method.prepare).parameters.get(name)
    if own is not None or method.config_class is None:
        return None if own is None else own.default
    return next(field.default for field in fields(find_class(method.config_class)) if field.name == name)
