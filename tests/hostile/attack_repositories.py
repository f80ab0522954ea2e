"""Spoilt adapter repositories: loaded with every weight that their files hold, or refused by name."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, SwinForImageClassification

import mona_peft
from mona_peft.finetuning.methods import apply_method
from mona_peft.finetuning.repository import save_repository
from tests.finetuning.tasks.tiny_classifier import write_classifier

from .mangle import mangle_file

METHODS = {"mona": {"bottleneck_dim": 4}, "bitfit": {}}
WEIGHTS = ("adapter_model.safetensors", "delta_model.safetensors")


def setup(root: Path) -> None:
    """A base model, and repositories of an adapter and of a small checkpoint on it."""
    base = write_classifier(root / "base")
    for method, options in METHODS.items():
        model = apply_method(SwinForImageClassification.from_pretrained(base), method, **options)
        save_repository(model, AutoImageProcessor.from_pretrained(base), root / method)


def attack(rng: random.Random, folder: Path) -> None:
    """Load a repository one of whose files was spoilt, and predict with it."""
    repository = folder / "repository"
    shutil.copytree(folder.parent / rng.choice(list(METHODS)), repository)
    done = mangle_file(rng, rng.choice(sorted(path for path in repository.rglob("*") if path.is_file())))
    loaded = mona_peft.load(repository, base_model=folder.parent / "base")
    (found,) = loaded.predict([Image.new("RGB", (40, 30))])
    assert found and all(0 <= one["score"] <= 1 for one in found), done
    held = next(load_file(repository / name) for name in WEIGHTS if (repository / name).exists())
    own = list(loaded.model.state_dict().values())
    for name, tensor in held.items():
        assert any(t.shape == tensor.shape and torch.equal(t, tensor) for t in own), f"{done}: {name} was not loaded"
