"""Models for images of another side than they were pretrained with."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from mona_peft.finetuning.validation import first_line

from .pretrained import load_fitting


def set_image_size(model: PreTrainedModel, side: int) -> None:
    """Make a model take square images of this side: tables of positions are interpolated and stay so.

    Models whose positions are relative, or that interpolate them in every call, are left as they are.

    Args:
        model (`PreTrainedModel`): Of transformers.
        side (`int`): Pixels.

    Raises:
        ValueError: If the side is no multiple of the patches.
    """
    for module in _tables(model):
        patches: Any = module.patch_embeddings
        patch, grid = _pair(patches.patch_size), _pair(patches.image_size)
        if side % patch[0] or side % patch[1]:
            near = side // patch[0] * patch[0]
            raise ValueError(f"image_size is {side}; the patches need a multiple of {patch[0]}, such as {near}.")
        old: Any = module.position_embeddings
        prefix = old.shape[1] - (grid[0] // patch[0]) * (grid[1] // patch[1])
        count = (side // patch[0]) * (side // patch[1])
        with torch.no_grad():
            table = module.interpolate_pos_encoding(old.new_empty(1, prefix + count, old.shape[2]), side, side)  # type: ignore[operator]
        module.position_embeddings = nn.Parameter(table.detach().clone(), requires_grad=old.requires_grad)
        patches.image_size, patches.num_patches = (side, side), count
        if hasattr(module, "image_size"):
            module.image_size = (side, side)  # type: ignore[assignment]
        model.config.image_size = side


def check_image_size(model: PreTrainedModel, side: int) -> None:
    """See, with one blank image, that a model takes images of this side.

    Args:
        model (`PreTrainedModel`): Of transformers, with what `set_image_size` does done.
        side (`int`): Pixels.

    Raises:
        ValueError: If it does not: Swin's windows, for example, must fit into its last grid.
    """
    if model.device.type == "meta":  # under FSDP the first process alone loads weights, and sees
        return
    channels = getattr(model.config, "num_channels", 3)
    blank = torch.zeros(1, channels, side, side, dtype=model.dtype, device=model.device)
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(pixel_values=blank)
    except (AssertionError, IndexError, RuntimeError, ValueError) as error:
        least = least_for_windows(model.config)
        remedy = f"its windows need {least} or more" if side < least else "leave it out for the model's own"
        raise ValueError(
            f"image_size is {side}, which {type(model).__name__} does not take; {remedy} ({first_line(error)})."
        ) from error
    finally:
        model.train(was_training)


def least_for_windows(config: PretrainedConfig | None) -> int:
    """The side whose last grid has as many patches as a Swin's windows, which do not shrink; 0 without windows."""
    window, patch, depths = (getattr(config, name, None) for name in ("window_size", "patch_size", "depths"))
    if not isinstance(window, int) or not isinstance(patch, int) or depths is None:
        return 0
    return window * patch * 2 ** (len(depths) - 1)


def _tables(model: nn.Module) -> Iterator[nn.Module]:
    """The embeddings with a learned table of positions that they interpolate only when asked to."""
    for module in list(model.modules()):
        learned = isinstance(getattr(module, "position_embeddings", None), nn.Parameter)
        if learned and hasattr(module, "patch_embeddings"):
            asked = "interpolate_pos_encoding" in inspect.signature(module.forward).parameters
            if asked and hasattr(module, "interpolate_pos_encoding"):
                yield module


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def load_resized(
    model_class: type[PreTrainedModel],
    name_or_path: str,
    config: PretrainedConfig,
    may_differ: Callable[[nn.Module], Sequence[str]],
) -> PreTrainedModel:
    """Load pretrained weights into a model whose configuration may name another image size than theirs.

    Args:
        model_class (`type[PreTrainedModel]`): What to load.
        name_or_path (`str`): Hub id or folder.
        config (`PretrainedConfig`): Of the model.
        may_differ (`Callable`): See [`load_fitting`].
    """
    side = getattr(config, "image_size", None)
    stored = getattr(AutoConfig.from_pretrained(name_or_path, trust_remote_code=False), "image_size", side)
    if side == stored or not isinstance(side, int):
        return load_fitting(model_class, name_or_path, config, may_differ)[0]
    own = copy.deepcopy(config)
    own.image_size = stored
    model, _ = load_fitting(model_class, name_or_path, own, may_differ)
    set_image_size(model, side)
    return model
