"""What a study compares: a method with its settings, on a backbone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mona_peft.finetuning.methods import METHODS

# In the order of the paper's table of methods.
PAPER_METHODS = (
    "full",
    "fixed",
    "bitfit",
    "norm",
    "partial-1",
    "bottleneck",
    "lora",
    "adaptformer",
    "lorand",
    "mona",
)

#: Names of methods with settings, next to the names of methods alone.
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {"lora16": ("lora", {"r": 16}), "lora64": ("lora", {"r": 64})}


@dataclass(frozen=True)
class Variant:
    """One line of a study's table.

    Args:
        label (`str`): Its name, unique in a study.
        method (`str`): A key of `METHODS`.
        options (`dict[str, Any]`): Settings of the method.
        backbone (`str`): Which of the testbed's backbones; empty for its first.
        group (`str`): What it is a setting of, in an ablation.
    """

    label: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    backbone: str = ""
    group: str = ""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"Unknown method {self.method!r}; choose one of {', '.join(sorted(METHODS))}.")


def method_variants(methods: Iterable[str], options: dict[str, dict[str, Any]]) -> list[Variant]:
    """One variant for each method or preset, under its own name, with its settings in `options`."""
    variants = []
    for name in methods:
        method, preset = PRESETS.get(name, (name, {}))
        variants.append(Variant(name, method, {**preset, **options.get(name, {})}))
    return variants


def check_labels(variants: Iterable[Variant]) -> None:
    """Refuse a study in which two variants have one name.

    Raises:
        `ValueError`: naming it.
    """
    labels = [variant.label for variant in variants]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"Two variants of the study are called {', '.join(twice)}; give each its own label.")
