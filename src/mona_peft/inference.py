"""Load a trained repository, ready to predict."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

DELTA_WEIGHTS = "delta_model.safetensors"
DELTA_CONFIG = "delta_config.json"


@dataclass(frozen=True)
class Loaded:
    """A model ready to predict.

    Args:
        model (`nn.Module`): in evaluation mode, head and label names included.
        processor (`Any`): its image processor.
    """

    model: nn.Module
    processor: Any


def load(repo_or_path: str | Path) -> Loaded:
    """Load a model saved by this package's training, with its base model.

    Args:
        repo_or_path (`str` or `Path`): a folder.
    """
    folder = Path(repo_or_path)
    config = AutoConfig.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    if (folder / "adapter_config.json").exists():
        base_name = PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
        base = AutoModelForImageClassification.from_pretrained(base_name, config=config, ignore_mismatched_sizes=True)
        model: nn.Module = PeftModel.from_pretrained(base, str(folder))
    elif (folder / DELTA_CONFIG).exists():
        base_name = json.loads((folder / DELTA_CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"]
        model = AutoModelForImageClassification.from_pretrained(base_name, config=config, ignore_mismatched_sizes=True)
        model.load_state_dict(load_file(folder / DELTA_WEIGHTS), strict=False)
    else:
        model = AutoModelForImageClassification.from_pretrained(folder)
    return Loaded(model.eval(), processor)
