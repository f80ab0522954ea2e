"""What a study compares: a method with its settings, on a backbone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mona_peft.finetuning.files import Json
from mona_peft.finetuning.methods import METHODS, lora_scaling

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

#: Names of methods with settings, next to the names of methods alone: ranks, Mona in proportion to the stream, and
#: what the official code has otherwise than this package by default (LoRA's scaling, which is 1 over the rank; first
#: weights that are not zero).
PRESETS: dict[str, tuple[str, dict[str, object]]] = {
    "lora16": ("lora", {"r": 16}),
    "lora64": ("lora", {"r": 64}),
    "mona-stream": ("mona", {"output_scale": "stream"}),
    "lora-official": ("lora", {"lora_alpha": 1}),
    **{
        f"{method}-official": (method, {"init_weights": "official"})
        for method in ("mona", "bottleneck", "adaptformer")
    },
}


@dataclass(frozen=True)
class Variant:
    """One line of a study's table.

    Args:
        label (`str`): Its name, unique in a study.
        method (`str`): A key of `METHODS`.
        options (`dict[str, object]`): Settings of the method.
        backbone (`str`): Which of the testbed's backbones; empty for its first.
        group (`str`): What it is a setting of, in an ablation.
        drop_path (`float`, *optional*): Its own drop path, in place of the recipe's.
    """

    label: str
    method: str
    options: dict[str, object] = field(default_factory=dict)
    backbone: str = ""
    group: str = ""
    drop_path: float | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"Unknown method {self.method!r}; choose one of {', '.join(sorted(METHODS))}.")


def method_variants(
    methods: Iterable[str],
    options: Mapping[str, Mapping[str, object]],
    drop_paths: Mapping[str, float | None] | None = None,
) -> list[Variant]:
    """One variant for each method or preset, under its own name. A preset has its method's settings, but for its own.

    Args:
        methods (`Iterable[str]`): Keys of `METHODS` or `PRESETS`.
        options (`Mapping[str, Mapping[str, object]]`): Settings by method or preset.
        drop_paths (`Mapping[str, float]`, *optional*): Drop paths of their own, by method.
    """
    own = drop_paths or {}
    variants = []
    for name in methods:
        method, preset = PRESETS.get(name, (name, {}))
        settings = {**options.get(method, {}), **preset, **options.get(name, {})}
        variants.append(Variant(name, method, settings, drop_path=own.get(method)))
    return variants


def settings_text(variant: Json) -> str:
    """The settings of a variant's method in words, LoRA's with the factor that they scale its updates by.

    Args:
        variant (`Json`): The fields of a `Variant`, as files hold them.
    """
    options = dict(variant["options"])
    if variant["method"] == "lora":
        options["scaling"] = lora_scaling(options)
    if variant.get("drop_path") is not None:
        options["drop_path"] = variant["drop_path"]
    values = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in options.items()}
    shown = ", ".join(f"{name} {value}" for name, value in values.items())
    return f"{variant['label']} {shown}" if shown else ""


def check_labels(variants: Iterable[Variant]) -> None:
    """Refuse a study in which two variants have one name.

    Raises:
        ValueError: If there are; names it.
    """
    labels = [variant.label for variant in variants]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"Two variants of the study are called {', '.join(twice)}; give each its own label.")
