"""Finding one's way around a block: what contains it, what stands before it, how wide its residual stream is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from .spec import PADDING, BlockSpec


def ancestors(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """Yield the modules that contain the module `name` of `model`, the nearest first, `model` last."""
    while name:
        name = name.rpartition(".")[0]
        yield model.get_submodule(name)


def has_submodule(module: nn.Module, path: str) -> bool:
    """Whether `module` has a module at `path`."""
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


def count_tokens(model: nn.Module, name: str, terms: Sequence[int | str]) -> int:
    """Add up `terms`: numbers, and attributes of the nearest module around block `name`, or its config, that has one.

    Raises:
        ValueError: If an attribute is found nowhere.
    """
    known = [term for term in terms if term != PADDING]
    return sum(_lookup(model, name, term) if isinstance(term, str) else term for term in known)


def find_patch_embedding(model: nn.Module, name: str, spec: BlockSpec, width: int) -> nn.Conv2d | None:
    """Return the convolution whose output is cut into the tokens block `name` sees, or None.

    It is the last one before the first block that gives as many channels as the residual stream has, in the nearest
    module around the block that has one.

    Args:
        model (`nn.Module`): The model that contains the block.
        name (`str`): The block's name in it.
        spec (`BlockSpec`): The block's row of the table.
        width (`int`): Channels of the residual stream.
    """
    for ancestor in ancestors(model, name):
        found = None
        for module in ancestor.modules():
            if spec.matches(module):
                break
            if isinstance(module, nn.Conv2d) and module.out_channels == width:
                found = module
        if found is not None:
            return found
    return None


def find_beside(model: nn.Module, name: str, path: str) -> nn.Module | None:
    """Return the module `path` of the nearest module around block `name` that has one, or None."""
    holders = (ancestor for ancestor in ancestors(model, name) if has_submodule(ancestor, path))
    holder = next(holders, None)
    return None if holder is None else holder.get_submodule(path)


def stream_width(block: nn.Module, spec: BlockSpec) -> int:
    """Channels of the residual stream: the inputs of the entry's first linear layer, or the size of its norm's weight.

    Raises:
        ValueError: If the entry has no parameters.
    """
    module = _first_with_parameters(block, spec)
    features = getattr(module, "in_features", None)  # a quantised weight has another shape
    return features if isinstance(features, int) else next(module.parameters(recurse=False)).shape[-1]


def stream_type(block: nn.Module, spec: BlockSpec) -> tuple[torch.device, torch.dtype]:
    """Device and type of the residual stream: those of the entry's, or the block's, first parameter of floats.

    Raises:
        ValueError: If the entry has no parameters.
    """
    first = next(_first_with_parameters(block, spec).parameters(recurse=False))
    parameters = [first, *block.parameters()]
    dtypes = [p.dtype for p in parameters if p.is_floating_point() and p.dtype.itemsize > 1]
    return first.device, dtypes[0] if dtypes else torch.get_default_dtype()


def _first_with_parameters(block: nn.Module, spec: BlockSpec) -> nn.Module:
    for module in block.get_submodule(spec.entry).modules():
        if any(True for _ in module.parameters(recurse=False)):
            return module
    raise ValueError(
        f"'{spec.entry}' of {type(block).__name__} has no parameters, so the width of the residual stream is unknown."
    )


def _lookup(model: nn.Module, name: str, attribute: str) -> int:
    for module in ancestors(model, name):
        for holder in (module, getattr(module, "config", None)):
            value = getattr(holder, attribute, None)
            if isinstance(value, int):
                return value
    raise ValueError(
        f"The number of extra tokens of block '{name}' is the attribute '{attribute}', which no module around the "
        "block has. Pass the block's layout in a `BlockSpec` with a number instead."
    )
