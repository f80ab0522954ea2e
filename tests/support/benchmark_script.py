"""Run `scripts/benchmark.py` in this process, on the smallest models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import SwinConfig

from mona_peft.finetuning.commands.main import run
from tests.support.scripts import SCRIPTS

SCRIPT = SCRIPTS / "benchmark.py"
TINY = ["--model", "swin-nano", "--image_size", "32", "--batch_size", "2", "--repeats", "2", "--warmup", "1"]


def script_main(arguments: list[str]) -> dict[str, Any]:
    return run("benchmark", *arguments)


def write_swin(folder: Path) -> str:
    """A configuration with four stages, as pyramids need them."""
    config = SwinConfig(image_size=64, embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=2)
    config.save_pretrained(folder)
    return str(folder / "config.json")
