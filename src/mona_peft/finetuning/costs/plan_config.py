"""What a plan of memory can be asked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from mona_peft.finetuning.methods import METHODS
from mona_peft.finetuning.models.names import CLASSIFICATION, TASKS
from mona_peft.finetuning.settings import Settings, option

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
PRECISIONS = ("float32", "bfloat16", "autocast")


@dataclass
class PlanConfig(Settings):
    """What to plan."""

    model: str = option(
        "swin-t", "A size of Swin or ViT, such as swin-t or vit-b, a path to a config.json, or a Hub name with a '/'."
    )
    image_size: int = option(224, "Height and width of the images, in pixels.", least=1)
    method: list[str] = option(["full", "fixed", "lora", "mona"], "Methods to plan, of those that can be trained.")
    memory: str = option("24GB", "Memory there is, such as 24GB or 16GiB.")
    precision: list[str] = option(
        list(PRECISIONS), "Of float32, bfloat16 (weights, too) and autocast (bfloat16 over float32 weights)."
    )
    task: str = option(CLASSIFICATION, f"What is trained: one of {', '.join(TASKS)}.", choices=TASKS)
    architecture: str = option("", "Neck and heads of a dense task, such as upernet; the task's usual ones if unset.")
    architecture_options: dict[str, Any] = option({}, 'Settings of the architecture, as JSON: {"fpn_channels": 256}.')
    objects: int = option(
        8, "Objects an image of detection and instance segmentation; photographs of COCO have 7 on average.", least=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("method", list(METHODS)), ("precision", list(PRECISIONS))):
            values = getattr(self, name)
            unknown = [value for value in values if value not in known]
            if unknown or not values:
                raise ValueError(f"{name} is {unknown or values}; choose among {', '.join(known)}.")
        read_bytes(self.memory)
        if self.task != CLASSIFICATION:  # its heads compute in 32 bits
            self.precision = [value for value in self.precision if value != "bfloat16"] or ["float32"]


def read_bytes(text: str) -> int:
    """Read an amount of memory.

    Args:
        text (`str`): A number and a unit, such as `24GB` (10^9 bytes each) or `16GiB` (2^30).

    Raises:
        ValueError: If it is none.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    unit = (match[2].upper() or "B") if match else ""
    if match is None or unit not in UNITS or float(match[1]) <= 0:
        raise ValueError(f"memory is {text!r}; it must be a positive number with a unit, such as 24GB or 16GiB.")
    return int(float(match[1]) * UNITS[unit])
