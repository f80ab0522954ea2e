"""A trained model as a repository that holds all a user needs beside the base model.

Three kinds: a PEFT adapter (with the head in it), a delta (`delta_model.safetensors`, the parameters that a method
without an adapter trained), and the whole model where everything was trained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn

from mona_peft.finetuning.inference.loading import DELTA_CONFIG, DELTA_WEIGHTS
from mona_peft.finetuning.models.weights import save_weights, trainable_names


def save_repository(model: nn.Module, processor: Any, folder: Path) -> Path:
    """Write weights, config with label names, and image processor.

    Args:
        model (`nn.Module`): a transformers model that a method was applied to, or the `PeftModel` around it.
        processor (`Any`): the image processor whose preparation the model was evaluated with.
        folder (`Path`): created where missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    bare = model.get_base_model() if isinstance(model, PeftModel) else model
    if isinstance(model, PeftModel):
        model.save_pretrained(str(folder))
    elif all(parameter.requires_grad for parameter in model.parameters()):
        model.save_pretrained(folder)  # type: ignore[operator]
    else:
        save_delta(model, folder)
    bare.config.architectures = [type(bare).__name__]  # type: ignore[union-attr]
    bare.config.save_pretrained(folder)  # type: ignore[union-attr, operator]
    processor.save_pretrained(folder)
    return folder


def save_delta(model: nn.Module, folder: Path) -> None:
    """Write what was trained (and the buffers) and the name of the model it was trained from."""
    state = model.state_dict()
    save_weights({name: state[name] for name in sorted(trainable_names(model))}, folder / DELTA_WEIGHTS)
    base = {"base_model_name_or_path": model.config.name_or_path}  # type: ignore[union-attr]
    (folder / DELTA_CONFIG).write_text(json.dumps(base, indent=2), encoding="utf-8")


def weights_size(folder: Path) -> int:
    """Bytes of the weight files of a repository."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
