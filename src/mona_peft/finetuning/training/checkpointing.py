"""Checkpoints that appear whole or not at all, and the folder of a run.

A checkpoint is written under a temporary name, flushed to disk and renamed; its manifest lists the size of every file.
Only what trains is stored (and the buffers): the rest comes again from where the model was loaded.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

MANIFEST = "manifest.json"
STATE = "state.json"
WEIGHTS = "trainable.safetensors"
PREFIX = "checkpoint-"
TEMPORARY = ".incomplete"


def write_json(path: Path, value: Any) -> None:
    """Write `value` so that `path` holds the old content or the new one, never a part."""
    temporary = path.with_name(path.name + TEMPORARY)
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def trainable_names(model: nn.Module) -> frozenset[str]:
    """State-dict names of what training changes: trainable parameters, and buffers."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    buffers = {name for name, _ in model.named_buffers()}
    return frozenset((trained | buffers) & model.state_dict().keys())


def unwrap_model(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    """The model without what accelerate and torch.compile put around it, in whatever order."""
    unwrapped = accelerator.unwrap_model(model, keep_torch_compile=False)
    return getattr(unwrapped, "_orig_mod", unwrapped)  # DDP around a compiled model


def bare_name(name: str) -> str:
    """Name of a tensor without what DDP and torch.compile put before or into it."""
    return name.removeprefix("module.").replace("_orig_mod.", "")


def save_weights(state: dict[str, torch.Tensor], path: Path) -> None:
    """Write tensors as safetensors, atomically."""
    temporary = path.with_name(path.name + TEMPORARY)
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}, temporary)
    _flush(temporary)
    temporary.replace(path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load what [`save_weights`] wrote into `model`.

    Raises:
        `ValueError`: if the file holds a tensor that the model does not have.
    """
    result = model.load_state_dict(load_file(path), strict=False)
    if result.unexpected_keys:
        raise ValueError(f"{path} holds weights that the model does not have: {', '.join(result.unexpected_keys)}.")


def load_sharded_weights(model: nn.Module, path: Path) -> None:
    """Load what [`save_weights`] wrote into a model of which each process has a part."""
    own = model.state_dict()
    with torch.no_grad():
        for name, whole in load_file(path).items():
            target = own[name]
            if isinstance(target, DTensor):
                whole = distribute_tensor(whole.to(target.device), target.device_mesh, target.placements)
            target.copy_(whole)


class Checkpointer:
    """Saves and finds the checkpoints of one run.

    Args:
        accelerator (`Accelerator`): holds the prepared model and optimiser.
        folder (`Path`): of the run.
        names (`frozenset[str]`): what [`trainable_names`] gave for the bare model.
        limit (`int`): how many checkpoints to keep.
    """

    def __init__(self, accelerator: Accelerator, folder: Path, names: frozenset[str], limit: int) -> None:
        self.accelerator = accelerator
        self.folder = folder
        self.names = names
        self.limit = limit
        accelerator.register_save_state_pre_hook(self._save_model)
        accelerator.register_load_state_pre_hook(self._load_model)

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Save a checkpoint after `step` optimiser steps.

        Args:
            step (`int`): number in the name.
            state (`dict[str, Any]`): progress of the loop, JSON values.
        """
        final = self.folder / f"{PREFIX}{step:08d}"
        temporary = final.with_name(final.name + TEMPORARY)
        if self.accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(temporary))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            write_json(temporary / STATE, state)
            _seal(temporary)
            if final.exists():
                shutil.rmtree(final)
            temporary.rename(final)
            _flush(self.folder)
            self._rotate(final)
        self.accelerator.wait_for_everyone()
        return final

    def load_newest(self) -> dict[str, Any] | None:
        """Restore the newest whole checkpoint and give back its state; `None` if there is none."""
        newest = newest_checkpoint(self.folder)
        if newest is None:
            return None
        state = json.loads((newest / STATE).read_text(encoding="utf-8"))
        if not (newest / f"random_states_{self.accelerator.process_index}.pkl").exists():
            warnings.warn(
                f"{newest} was saved by fewer processes than the {self.accelerator.num_processes} here: training goes "
                "on, but not bit for bit as it would have.",
                stacklevel=2,
            )
        self.accelerator.load_state(str(newest))
        return state

    def _rotate(self, newest: Path) -> None:
        """Delete all but the newest `limit` checkpoints and what was left half written."""
        whole = sorted(path for path in self.folder.glob(f"{PREFIX}*") if TEMPORARY not in path.name)
        older = [path for path in whole if path != newest]
        for path in older[: len(older) - (self.limit - 1)]:
            shutil.rmtree(path)
        for path in self.folder.glob(f"{PREFIX}*{TEMPORARY}"):
            shutil.rmtree(path)

    def _save_model(self, models: list[nn.Module], weights: list[dict[str, torch.Tensor]], folder: str) -> None:
        """Hook of `save_state`: store what trains only. Sharded models keep accelerate's own way (no `weights`)."""
        if weights:
            state = weights.pop()
            if self.accelerator.is_main_process:
                bare = {bare_name(name): tensor for name, tensor in state.items()}
                save_weights({name: bare[name] for name in self.names}, Path(folder) / WEIGHTS)

    def _load_model(self, models: list[nn.Module], folder: str) -> None:
        """Hook of `load_state`, the other way."""
        if models:
            load_weights(unwrap_model(self.accelerator, models.pop()), Path(folder) / WEIGHTS)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`; broken ones are skipped with a warning."""
    for path in sorted(folder.glob(f"{PREFIX}*"), reverse=True):
        if TEMPORARY in path.name:
            warnings.warn(f"Skipping {path}: it was not finished.", stacklevel=2)
        elif (problem := _problem(path)) is not None:
            warnings.warn(f"Skipping {path}: {problem}.", stacklevel=2)
        else:
            return path
    return None


def _seal(folder: Path) -> None:
    """Flush every file and list the sizes."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in files:
        _flush(path)
    write_json(folder / MANIFEST, {str(path.relative_to(folder)): path.stat().st_size for path in files})
    _flush(folder)


def _problem(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or `None`."""
    try:
        sizes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "its manifest is missing or broken"
    for name, size in sizes.items():
        path = folder / name
        if not path.exists():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
    return None


def _flush(path: Path) -> None:
    """Have the system write a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
