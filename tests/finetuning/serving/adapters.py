"""Saved adapters of every method, with heads of different classes, on one tiny base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor

from mona_peft import select_salient_channels
from mona_peft.finetuning.methods import apply_method
from mona_peft.finetuning.models.classifier import load_classifier
from mona_peft.finetuning.repository import save_repository
from tests.support.models import images, randomise

METHODS: dict[str, dict[str, Any]] = {
    "mona": {"bottleneck_dim": 4},
    "adaptformer": {"bottleneck_dim": 4},
    "bottleneck": {"bottleneck_dim": 4},
    "lorand": {"lorand_beta": 4},
    "ssf": {},
    "vpt": {"vpt_tokens": 2},
    "convpass": {},
    "sct": {"num_channels": 5},
    "lora": {"r": 2},
}


def save_adapter(base: Path, folder: Path, method: str, classes: int, seed: int = 0, **options: Any) -> Path:
    """Save an adapter of random weights, far enough from the start to make a difference."""
    torch.manual_seed(seed)
    names = [f"{folder.name}-{number}" for number in range(classes)]
    model: Any = apply_method(load_classifier(str(base), names), method, **METHODS[method] | options)
    if method == "sct":
        select_salient_channels(model, [(images(2), torch.tensor([0, 1]))])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            randomise(model, name, std=0.3, seed=seed + len(name))
    return save_repository(model, AutoImageProcessor.from_pretrained(base), folder)
