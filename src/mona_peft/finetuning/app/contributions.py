"""What the adapters of each block change of its residual stream, position by position.

While a model runs, each adapted block is run once more on the very input that it got, its adapters switched off. The
contribution at a position is the Euclidean norm, over the channels, of the difference between the two results. So it
is of the block alone: the input of both runs is the stream as the adapters of the blocks before have made it. Whatever
an adapter acts on inside the block, the residual stream, a projection or attention, is in that difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from mona_peft.blocks.known import find_blocks
from mona_peft.blocks.layout import Layout, TokenLayout
from mona_peft.blocks.modules import stream_width
from mona_peft.blocks.recorders import remove_recorders
from mona_peft.blocks.rows import apply_layout, on_grid
from mona_peft.blocks.source import LayoutSource
from mona_peft.blocks.spec import IMAGES, BlockSpec
from mona_peft.blocks.tapped import TappedBlock


@dataclass(frozen=True)
class Contribution:
    """What the adapters of one block change.

    Args:
        block (`str`): Its name in the model.
        norms (`Tensor`): Of the change at each position of the patch grid, `(H, W)`; other tokens are left out.
        share (`float`): Mean of the norms, as a share of the mean norm of the block's result without its adapters.
    """

    block: str
    norms: Tensor
    share: float


@contextmanager
def without_adapters(module: nn.Module) -> Iterator[None]:
    """Switch off every adapter inside `module`; trained heads (`modules_to_save`) stay in place."""
    layers = [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]
    before = [layer._disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, disabled in zip(layers, before, strict=True):
            layer._disable_adapters = disabled


@contextmanager
def watching(model: nn.Module, specs: Sequence[BlockSpec] | None = None) -> Iterator[list[Contribution]]:
    """Collect the contributions of the adapted blocks of `model` to what runs meanwhile, in the order of the blocks.

    Args:
        model (`nn.Module`): The model inside the `PeftModel`, adapters in place. One image runs at a time.
        specs (`Sequence[BlockSpec]`, *optional*): Of blocks that the table does not know, from its configuration.
    """
    found: list[Contribution] = []
    handles = []
    tapped = [module for module in model.modules() if isinstance(module, TappedBlock)]
    try:
        for name, spec in find_blocks(model, specs).items():
            block = model.get_submodule(name)
            if any(isinstance(layer, BaseTunerLayer) for layer in block.modules()):
                watch = partial(_watch, found, name, spec, _source(model, name, spec))
                handles.append(block.register_forward_hook(watch, with_kwargs=True))
        yield found
    finally:
        for handle in handles:
            handle.remove()
        remove_recorders(model, [recorder for block in tapped for recorder in block._tap.source.recorders])


def _source(model: nn.Module, name: str, spec: BlockSpec) -> LayoutSource:
    """What tells the layout of a block's tokens: the block's own, where it has one."""
    block = model.get_submodule(name)
    if isinstance(block, TappedBlock):
        return block._tap.source
    source = LayoutSource(model, name, spec, stream_width(block, spec))
    source.start()
    return source


def _watch(
    found: list[Contribution],
    name: str,
    spec: BlockSpec,
    source: LayoutSource,
    block: nn.Module,
    args: tuple,
    kwargs: dict[str, Any],
    output: Tensor | tuple,
) -> None:
    """Forward hook of a block."""
    layout = kwargs.get("tap_layout") or source.layout(args, kwargs)
    with without_adapters(block):
        bare = block.forward(*args, **{key: value for key, value in kwargs.items() if key != "tap_layout"})
    if not isinstance(block, TappedBlock):
        source.follow(args[0] if args else next(iter(kwargs.values())), output)
    adapted, plain = (value[0] if isinstance(value, tuple) else value for value in (output, bare))
    norms, sizes = (_grid_norms(value.float(), spec, layout) for value in (adapted - plain, plain))
    found.append(Contribution(name, norms.cpu(), float(norms.mean() / sizes.mean().clamp_min(1e-12))))


def _grid_norms(stream: Tensor, spec: BlockSpec, layout: Layout) -> Tensor:
    """Norms `(H, W)` over the channels of the patch tokens, in the order of the grid."""
    if spec.grid == "channels_first":
        stream = stream.permute(0, 2, 3, 1)
    if spec.grid in IMAGES:  # a convolution may have another stride than 1
        layout = on_grid(layout, stream.shape[1], stream.shape[2])
    grids: list[Tensor] = []

    def read(tokens: Tensor, grid: TokenLayout) -> None:
        patches = tokens[0].reshape(-1, tokens.shape[-1])[grid.prefix :][: grid.height * grid.width]
        grids.append(torch.linalg.vector_norm(patches, dim=-1).reshape(grid.height, grid.width))

    apply_layout(read, stream, layout)
    return grids[0]
