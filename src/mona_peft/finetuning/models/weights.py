"""What training changes of a model, and files of it that can tell whether they are whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor

from mona_peft.finetuning.files import refuse_special, replacing

DIGEST = "sha256"


def trainable_names(model: nn.Module) -> frozenset[str]:
    """State-dict names of what training changes: trainable parameters, and buffers."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    buffers = {name for name, _ in model.named_buffers()}
    return frozenset((trained | buffers) & model.state_dict().keys())


def tensor_digest(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 of tensors, with their names, types and shapes."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def frozen_digest(model: nn.Module) -> str:
    """SHA-256 of the parameters that training leaves as they were loaded."""
    frozen = {name: parameter for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return tensor_digest({name: parameter for name, parameter in frozen.items() if not parameter.is_meta})


def save_weights(state: dict[str, torch.Tensor], path: Path) -> None:
    """Write tensors as safetensors, whole or not at all, with a hash of them in the metadata."""
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    with replacing(path) as temporary:
        save_file(stored, temporary, metadata={DIGEST: tensor_digest(stored)})


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read what [`save_weights`] wrote.

    Raises:
        ValueError: If the file is missing, or is not what was written.
    """
    try:
        refuse_special(path)
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # it is no mapping
            expected = (file.metadata() or {}).get(DIGEST)
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}).") from error
    if expected is not None and tensor_digest(state) != expected:
        raise ValueError(f"{path} is damaged: its weights are not those that were written.")
    return state


def load_weights(model: nn.Module, path: Path) -> None:
    """Load what [`save_weights`] wrote into `model`.

    Raises:
        ValueError: If the file is damaged, or holds a tensor that the model does not have.
    """
    result = model.load_state_dict(read_weights(path), strict=False)
    if result.unexpected_keys:
        raise ValueError(f"{path} holds weights that the model does not have: {', '.join(result.unexpected_keys)}.")


def count_not_finite(tensors: Iterable[torch.Tensor], device: torch.device) -> torch.Tensor:
    """How many of the tensors hold a value that is inf or nan, as a scalar on `device`; reads nothing back."""
    count = torch.zeros((), device=device)
    for tensor in tensors:
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        if local.is_floating_point() and local.numel():
            count += (~local.isfinite().all()).to(device)
    return count
