"""Repositories of each kind, saved without a training: what loading them meets is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor

from mona_peft.finetuning.methods import apply_method
from mona_peft.finetuning.models.classifier import load_classifier
from mona_peft.finetuning.repository import save_repository
from tests.support.models import randomise

NAMES = ["cat", "dog", "bird", "fish", "horse"]
OPTIONS: dict[str, dict[str, Any]] = {"mona": {"bottleneck_dim": 4}, "lora": {"r": 2}}


def save(base: Path, folder: Path, method: str = "mona") -> Path:
    """Save a repository of `method` on the classifier in `base`."""
    torch.manual_seed(3)
    model = apply_method(load_classifier(str(base), NAMES), method, **OPTIONS.get(method, {}))
    randomise(model, "")
    if method not in ("full",):  # all of it differs from the base only where it trains
        frozen = load_classifier(str(base), NAMES).state_dict()
        bare = model.get_base_model() if hasattr(model, "get_base_model") else model
        names = {name for name, parameter in bare.named_parameters() if not parameter.requires_grad}
        original = {name.replace("base_layer.", "").replace("original_module.", ""): name for name in names}
        bare.load_state_dict({full: frozen[name] for name, full in original.items() if name in frozen}, strict=False)
    return save_repository(model, AutoImageProcessor.from_pretrained(base), folder)


def change_tensors(path: Path, change: Any) -> None:
    """Write a safetensors file again with `change(tensors)` done to it."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
