"""Finding one's way around a block: what contains it, what stands before it, how wide its residual stream is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from mona_peft.compat import AuxiliaryTrainingWrapper, ModulesToSaveWrapper

from .spec import PADDING, BlockSpec


def ancestors(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """Yield the modules that contain the module `name` of `model`, the nearest first, `model` last."""
    while name:
        name = name.rpartition(".")[0]
        yield model.get_submodule(name)


def paths_to(name: str) -> list[str]:
    """Names of the modules that contain the module `name`, the outermost first, and `name` itself."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


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


def find_patch_embedding(
    model: nn.Module, name: str, spec: BlockSpec, width: int | None
) -> tuple[nn.Module, str] | None:
    """Find the convolution whose output becomes the tokens of block `name`: a module around it and its path in that.

    It is the last one before the first block that gives as many channels as the residual stream has, in the nearest
    module around the block that has one.

    Args:
        model (`nn.Module`): The model that contains the block.
        name (`str`): The block's name in it.
        spec (`BlockSpec`): The block's row of the table.
        width (`int`, *optional*): Channels of the residual stream; any if left out.
    """
    for ancestor in ancestors(model, name):
        found = None
        for path, module in ancestor.named_modules():
            if spec.matches(module):
                break
            if isinstance(module, nn.Conv2d) and width in (None, module.out_channels):
                found = path
        if found is not None:
            return ancestor, found
    return None


def find_beside(model: nn.Module, name: str, path: str) -> nn.Module | None:
    """Return the nearest module around block `name` that has a module at `path`, or None."""
    return next((ancestor for ancestor in ancestors(model, name) if has_submodule(ancestor, path)), None)


def find_caller(model: nn.Module, name: str, argument: str) -> nn.Module | None:
    """Return the nearest module around block `name` whose forward has this argument, or None."""
    around = ancestors(model, name)
    return next((m for m in around if argument in inspect.signature(m.forward).parameters), None)


def find_attribute(model: nn.Module, name: str, *attributes: str) -> Any:
    """The first of `attributes` that the nearest module around block `name`, or its config, has; None if none has."""
    for module in ancestors(model, name):
        for holder in (module, getattr(module, "config", None)):
            for attribute in attributes:
                value = getattr(holder, attribute, None)
                if value is not None:
                    return value
    return None


def find_kept(model: nn.Module, name: str) -> str | None:
    """Name of the outermost module, `name` or one around it, of which PEFT keeps copies for adapters; None without."""
    return next((p for p in paths_to(name) if isinstance(model.get_submodule(p), AuxiliaryTrainingWrapper)), None)


def copies_at(root: nn.Module, path: str) -> list[nn.Module]:
    """The modules that may run at `path`: one, or where PEFT keeps copies (`modules_to_save`), the original and those.

    Args:
        root (`nn.Module`): A module.
        path (`str`): Path in it, of any of the copies; empty for the module itself.
    """
    modules, parts = [root], path.split(".") if path else []
    while parts:
        part = parts.pop(0)
        if all(isinstance(module, ModulesToSaveWrapper) for module in modules):
            wrappers = [module for module in modules if isinstance(module, ModulesToSaveWrapper)]
            modules = [kept for wrapper in wrappers for kept in _kept(wrapper)]
            if part == "modules_to_save":
                parts.pop(0)
            if part in ("modules_to_save", "original_module"):
                continue
        modules = [getattr(module, part) for module in modules]
    return [copy for module in modules for copy in _copies(module)]


def _kept(wrapper: ModulesToSaveWrapper) -> list[nn.Module]:
    return [wrapper.original_module, *wrapper.modules_to_save.values()]


def _copies(module: nn.Module) -> list[nn.Module]:
    if not isinstance(module, ModulesToSaveWrapper):
        return [module]
    return [copy for kept in _kept(module) for copy in _copies(kept)]


def remove_hooks(module: nn.Module, ours: Callable[[Callable], bool]) -> None:
    """Remove the forward hooks and pre-hooks for which `ours` is true.

    A copied module has copies of the hooks, of which nobody has handles.
    """
    for kind in ("_forward_hooks", "_forward_pre_hooks"):
        hooks = getattr(module, kind)
        for number in [number for number, hook in hooks.items() if ours(hook)]:
            del hooks[number]
            for more in ("_with_kwargs", "_always_called"):
                getattr(module, f"{kind}{more}", {}).pop(number, None)


def stream_width(block: nn.Module, spec: BlockSpec) -> int:
    """Channels of the residual stream: the inputs of the entry's first linear layer, or the size of its norm's weight.

    Those of a convolutional block are the outputs of its last layer.

    Raises:
        ValueError: If no layer of the entry, or of the block, tells.
    """
    layer = _telling_layer(block, spec)
    if not spec.entry:
        return _outputs(layer)
    features = getattr(layer, "in_features", None)  # a quantised weight has another shape
    return features if isinstance(features, int) else next(layer.parameters(recurse=False)).shape[-1]


def stream_type(block: nn.Module, spec: BlockSpec) -> tuple[torch.device, torch.dtype]:
    """Device and type of the residual stream: those of the entry's, or the block's, first parameter of floats.

    Where accelerate keeps the parameters elsewhere between the calls, the device is the one it brings them to.

    Raises:
        ValueError: If no layer of the entry, or of the block, tells.
    """
    layer = _telling_layer(block, spec)
    first = next(layer.parameters(recurse=False))
    parameters = [first, *block.parameters()]
    dtypes = [p.dtype for p in parameters if p.is_floating_point() and p.dtype.itemsize > 1]
    return _execution_device(layer) or first.device, dtypes[0] if dtypes else torch.get_default_dtype()


def _execution_device(module: nn.Module) -> torch.device | None:
    hook = getattr(module, "_hf_hook", None)
    devices = [getattr(h, "execution_device", None) for h in getattr(hook, "hooks", [hook])]
    return next((torch.device(device) for device in devices if device is not None), None)


def _telling_layer(block: nn.Module, spec: BlockSpec) -> nn.Module:
    """The first module of the entry with parameters of its own; the last layer of a convolutional block.

    Raises:
        ValueError: If there is none.
    """
    tap = getattr(block, "_tap", None)
    adapters = [] if tap is None or spec.entry else tap.adapters
    holders = [
        module
        for name, module in block.get_submodule(spec.entry).named_modules()
        if name.split(".")[0] not in adapters and any(True for _ in module.parameters(recurse=False))
    ]
    layers = holders if spec.entry else [module for module in reversed(holders) if _outputs(module)]
    if not layers:
        lacks = f"'{spec.entry}' has no parameters" if spec.entry else "it has no convolution and no linear layer"
        raise ValueError(
            f"The width of the residual stream of {type(block).__name__} is unknown: {lacks}. Give the block's layout "
            "with another entry in a `BlockSpec`."
        )
    return layers[0]


def _outputs(module: nn.Module) -> int:
    """Channels that a convolution or a linear layer gives; 0 for another module."""
    channels = getattr(module, "out_channels", getattr(module, "out_features", 0))
    return channels if isinstance(channels, int) else 0


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
