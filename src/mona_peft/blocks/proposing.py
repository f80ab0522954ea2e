"""What an unknown block may be, from a trial run: where its MLP branch starts, and where its grid comes from."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from .modules import find_patch_embedding, stream_width
from .spec import NORM_BEFORE_ATTENTION, BlockSpec
from .trial import CallRecord, call, hooked

Records = Mapping[str, Sequence[CallRecord]]


def entries(block_name: str, block: nn.Module, records: Records) -> list[str]:
    """Modules of a block that are called once, in its forward, with something as large as its result; norms first.

    Args:
        block_name (`str`): The block's name in the model.
        block (`nn.Module`): The block.
        records (`Records`): Of a trial run.
    """
    result = records[block_name][0].result
    assert result is not None
    found = []
    for path, _ in block.named_modules():
        calls = records.get(f"{block_name}.{path}", ()) if path else ()
        given = calls[0].input if len(calls) == 1 else None
        if given is not None and given.numel() == result.numel() and given.shape[-1] in result.shape:
            found.append(path)
    return sorted(found, key=lambda path: (path not in NORM_BEFORE_ATTENTION, path.count(".")))


def is_convolutional(model: nn.Module, names: Sequence[str], records: Records) -> bool:
    """Whether blocks are convolutions on images with a residual sum, as far as shapes tell.

    Args:
        model (`nn.Module`): The model.
        names (`Sequence[str]`): The blocks.
        records (`Records`): Of a trial run.
    """
    calls = [records[name][0] for name in names]
    images = [one.input is not None and one.input.dim() == 4 for one in calls]
    kept = [one.input is not None and one.result is not None and one.input.shape == one.result.shape for one in calls]
    wide = all(
        any(isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1 for m in model.get_submodule(name).modules())
        for name in names
    )
    return all(images) and 2 * sum(kept) >= len(kept) and wide


def layouts(
    model: nn.Module, names: Sequence[str], entry: str, records: Records, inputs: Mapping[str, Tensor]
) -> Iterator[BlockSpec]:
    """Rows for blocks with this entry, one for each way in which their grid may be known.

    Args:
        model (`nn.Module`): The model.
        names (`Sequence[str]`): The blocks' names in it.
        entry (`str`): Path of the first module of its MLP branch; empty for a convolutional block.
        records (`Records`): Of a trial run on `inputs`.
        inputs (`Mapping[str, Tensor]`): Images, as keyword arguments of the model.
    """
    name = names[0]
    block, record = model.get_submodule(name), records[name][0]
    cls, given, result = type(block), record.input, record.result
    assert given is not None and result is not None
    package = ".".join(cls.__module__.split(".")[:3])
    bare = BlockSpec(cls.__name__, entry, "patch_embed" if entry else "channels_first", package=package)
    try:
        width = stream_width(block, bare)
    except ValueError:
        return
    if given.dim() == 4:
        axes = [kind for kind, axis in (("channels_last", -1), ("channels_first", 1)) if result.shape[axis] == width]
        if len(axes) == 1:
            yield replace(bare, grid=axes[0])
        return
    if given.dim() != 3 or not entry or given.shape[-1] != width:
        return
    for arguments, grid in _grid_arguments(block, record):
        counts = [_extra(model.get_submodule(one), records[one][0], arguments) for one in names]
        extras = [count for count in counts if count is not None]
        if grid in _convolved_grids(model, records) and len(extras) == len(counts):
            least, some = min(extras), max(extras) - min(extras)
            prefix, optional = ((count,) if count else () for count in (least, some))
            yield replace(bare, grid=arguments, prefix_tokens=prefix, optional_tokens=optional)
    found = find_patch_embedding(model, name, bare, width)
    if found is not None:
        tokens = _extra_tokens(model, found[0].get_submodule(found[1]), name, inputs)
        if tokens is not None:
            prefix, suffix = ((count,) if count else () for count in tokens)
            yield replace(bare, prefix_tokens=prefix, suffix_tokens=suffix)


def _convolved_grids(model: nn.Module, records: Records) -> set[tuple[int, int]]:
    """Heights and widths that convolutions gave: a pair of arguments in another order is none of them."""
    grids = set()
    for name, calls in records.items():
        if isinstance(model.get_submodule(name), nn.Conv2d):
            grids |= {(one.result.shape[-2], one.result.shape[-1]) for one in calls if one.result is not None}
    return grids


def _grid_arguments(block: nn.Module, record: CallRecord) -> Iterator[tuple[str, tuple[int, int]]]:
    """Arguments of a block's forward that hold a height and a width, one or two next to each other."""
    try:
        bound = inspect.signature(block.forward).bind(*record.args, **record.kwargs).arguments
    except TypeError:
        return
    whole = {name: value for name, value in bound.items() if type(value) is int}
    for name, value in bound.items():
        if isinstance(value, tuple | list) and len(value) == 2 and all(type(side) is int for side in value):
            yield name, (value[0], value[1])
    for (one, height), (other, width) in zip(list(whole.items()), list(whole.items())[1:], strict=False):
        yield f"{one},{other}", (height, width)


def _extra(block: nn.Module, record: CallRecord, arguments: str) -> int | None:
    """How many tokens more than its grid a block is given, by the arguments that tell the grid."""
    grids = dict(_grid_arguments(block, record))
    if arguments not in grids or record.input is None:
        return None
    extra = record.input.shape[1] - grids[arguments][0] * grids[arguments][1]
    return extra if extra >= 0 else None


def _extra_tokens(
    model: nn.Module, convolution: nn.Module, name: str, inputs: Mapping[str, Tensor]
) -> tuple[int, int] | None:
    """How many tokens stand before and after the patches of a block's input; nothing if patches are not in order.

    Three patches of the convolution's output are changed, one at a time: those tokens that change tell where they are.
    """
    block = model.get_submodule(name)
    base, height, width = _block_input(model, convolution, block, inputs, None)
    if base is None or min(height, width) < 2 or base.dim() != 3:
        return None
    places = []
    for place in ((0, 0), (0, 1), (1, 0)):
        moved, _, _ = _block_input(model, convolution, block, inputs, place)
        if moved is None or moved.shape != base.shape:
            return None
        changed = (moved != base).any(-1).any(0).nonzero().flatten().tolist()
        places.append(changed[0] if len(changed) == 1 else -1)
    prefix = places[0]
    suffix = base.shape[1] - height * width - prefix
    in_order = places == [prefix, prefix + 1, prefix + width]
    return (prefix, suffix) if prefix >= 0 and suffix >= 0 and in_order else None


class _Reached(Exception):
    """The first block has its input; the rest of the model need not run."""


def _block_input(
    model: nn.Module,
    convolution: nn.Module,
    block: nn.Module,
    inputs: Mapping[str, Tensor],
    place: tuple[int, int] | None,
) -> tuple[Tensor | None, int, int]:
    """What a block is given, with one patch of the convolution's output changed or none, and the patches' grid."""
    seen: list[Tensor] = []
    sides: list[tuple[int, int]] = []

    def change(module: nn.Module, args: tuple, kwargs: dict[str, object], output: Tensor) -> Tensor:
        sides.append((output.shape[2], output.shape[3]))
        if place is None:
            return output
        changed = output.clone()
        changed[:, :, place[0], place[1]] += 1.0
        return changed

    def stop(module: nn.Module, args: tuple, kwargs: dict[str, object]) -> None:
        given = CallRecord(args, kwargs, None).input
        if given is not None:
            seen.append(given)
        raise _Reached

    with hooked([convolution], end=change), hooked([block], begin=stop), torch.no_grad():
        try:
            call(model, inputs)
        except _Reached:
            pass
    if not seen or len(sides) != 1:
        return None, 0, 0
    return seen[0], *sides[0]
