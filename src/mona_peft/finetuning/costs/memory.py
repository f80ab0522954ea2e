"""What training holds in memory besides the weights of the model, on any device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mona_peft.finetuning.training.task import Task

# A gradient and AdamW's two moments for each trained value.
STATES_PER_PARAMETER = 3


def saved_bytes(forward: Callable[[], object], model: nn.Module) -> int:
    """Count the bytes that autograd keeps of a forward pass; each storage once, those of the model left out.

    Args:
        forward (`Callable`): Runs the forward pass and gives back its loss.
        model (`nn.Module`): Its parameters and buffers do not count.
    """
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage  # kept alive, so that its address is not given out again
        return tensor.detach()  # a saved output would hold the very graph that holds it, and neither ever be freed

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = forward()
    del loss
    return sum(storage.nbytes() for storage in storages.values())


def training_memory(task: Task, model: nn.Module, batch: dict[str, object]) -> int:
    """Bytes of the activations kept for the backward pass, the gradients and the optimiser's states.

    Args:
        task (`Task`): Computes the loss.
        model (`nn.Module`): In training mode; nothing of it changes but the random state.
        batch (`dict[str, object]`): A training batch on the model's device.
    """
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    before = [buffer.clone() for buffer in model.buffers()]
    kept = saved_bytes(lambda: task.loss(model, batch), model)
    for buffer, value in zip(model.buffers(), before, strict=True):
        buffer.copy_(value)  # a batch norm has counted the batch
    return kept + STATES_PER_PARAMETER * trained
