"""Batches whose rows use adapters of their own, in one pass through the base model.

Adapters of one method with one configuration are put side by side in a model that lasts for the batch: it has the
tensors of the base model, and the very modules of the adapters and heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional as F

from mona_peft.compat import ModulesToSaveWrapper
from mona_peft.tuners.base.mixed_batch import row_groups
from mona_peft.tuners.base.tuner import BlockTuner, BlockTunerLayer

from .sharing import share

# What configurations may differ in and still act in one pass.
NOTES = {"base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version", "task_type"}


class RowHead(nn.Module):
    """The heads of several adapters in the place of one: each row goes through its own.

    Outputs of fewer classes than the widest are filled up with zeros.

    Args:
        heads (`Sequence[nn.Module]`): By the adapters' order; they are named `row0`, `row1`, ...
    """

    def __init__(self, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({row_name(number): head for number, head in enumerate(heads)})

    def forward(self, x: Tensor) -> Tensor:
        """Outputs `(B, ..., C)`, where C is the widest head's."""
        groups = row_groups(len(x))
        if groups is None:
            raise ValueError("Heads of several adapters need adapter_names; call the model of one adapter instead.")
        parts = [self.heads[names[0]](x[rows]) for names, rows in groups]
        widest = max(part.shape[-1] for part in parts)
        filled = [F.pad(part, (0, widest - part.shape[-1])) for part in parts]
        return torch.cat(filled)[torch.cat([rows for _, rows in groups]).argsort()]


def row_name(number: int) -> str:
    """The name of an adapter in a mixed model; the user's names may hold what names of modules cannot."""
    return f"row{number}"


def mixing_key(model: nn.Module) -> str | None:
    """What adapters must have in common to act in one pass; None if the method treats no rows apart."""
    if not isinstance(model, PeftModel) or not isinstance(model.base_model, BlockTuner):
        return None
    config = {name: value for name, value in asdict(model.active_peft_config).items() if name not in NOTES}
    heads = [path for path, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper)]
    return repr((sorted((name, repr(value)) for name, value in config.items()), heads))


def mix(models: Sequence[Any]) -> PeftModel:
    """A model with the adapters and heads of `models`, named by [`row_name`].

    Args:
        models (`Sequence[PeftModel]`): With one `mixing_key` and one adapter each.
    """
    mixed = share(models[0])
    names = [model.active_adapter for model in models]
    for path, layer in list(models[0].named_modules()):
        parts = [model.get_submodule(path) for model in models]
        if isinstance(layer, BlockTunerLayer):
            for place in layer.adapter_layer_names:
                setattr(mixed.get_submodule(path), place, _side_by_side(parts, place, names))
        elif isinstance(layer, ModulesToSaveWrapper):
            heads = [part.modules_to_save[name] for part, name in zip(parts, names, strict=True)]
            mixed.set_submodule(path, RowHead(heads))
    mixed.base_model.peft_config = {
        row_name(number): model.peft_config[name]
        for number, (model, name) in enumerate(zip(models, names, strict=True))
    }
    mixed.active_adapter = row_name(0)
    return mixed


def _side_by_side(layers: Sequence[nn.Module], place: str, names: Sequence[str]) -> nn.ModuleDict:
    found = [getattr(layer, place) for layer in layers]
    return nn.ModuleDict({row_name(i): found[i][name] for i, name in enumerate(names) if name in found[i]})
