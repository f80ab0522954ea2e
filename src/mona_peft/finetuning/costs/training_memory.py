"""What training holds in memory beside the weights of the model, on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mona_peft.finetuning.training.task import Task

# A gradient and AdamW's two moments for each trained value.
STATES_PER_PARAMETER = 3


def training_memory(task: Task, model: nn.Module, batch: dict[str, Any]) -> int:
    """Bytes of the activations kept for the backward pass, the gradients and the optimiser's states.

    Args:
        task (`Task`): Computes the loss.
        model (`nn.Module`): In training mode; nothing of it changes but the random state.
        batch (`dict[str, Any]`): A training batch on the model's device.
    """
    weights = {_storage(tensor) for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in weights:
            kept[_storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = task.loss(model, batch)
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    del loss
    return sum(kept.values()) + STATES_PER_PARAMETER * trained


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
