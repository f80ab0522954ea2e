"""What one row of the matrix of backbones holds, and the reference that the adapted blocks are compared with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from mona_peft.blocks.tapped import TappedBlock

Size = tuple[int, int]


def pixels(height: int, width: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return {"pixel_values": torch.randn(2, 3, height, width, generator=generator)}


def interpolated(height: int, width: int) -> dict[str, Any]:
    return pixels(height, width) | {"interpolate_pos_encoding": True}


@dataclass(frozen=True)
class Family:
    """A tiny local model and what is true of its family.

    Args:
        name: As the table of backbones shows it.
        library: `"transformers"`, `"timm"`, ...
        build: Makes the model.
        blocks: Number of blocks that are adapted.
        mlp: What the MLP branch of a block adds to the stream after attention, written out.
        silence: Module of the block which, with all parameters zero, makes the MLP branch add nothing.
        grid: Grid of block number i for an image of a size.
        inputs: Arguments of a call with images of a size.
        sizes: Image sizes that the family supports, the square one first.
        extra: Tokens before and after the patches of block number i.
        branches: Whether blocks have an attention and an MLP branch; if not, one adapter acts on their result.
        arrangement: `"tokens"` `(B, N, C)`, `"channels_last"` or `"channels_first"`.
        places: From the inputs, where each patch of the grid is found among the patch tokens, if they are shuffled.
        row_grids: From the inputs, the grid of each row, if they differ.
        order: For block number i and a size, where each patch of its grid is found, if not row by row.
        packed: From the inputs, of each image in the sequence `(N, C)` its grid and where each patch is found.
        recorded: Numbers of the blocks whose output is among the hidden states; None if the family records none.
        checkpointing: Whether the family supports gradient checkpointing.
        reentrant: Whether it supports, and computes itself the right gradients under, the reentrant kind.
        processed: Whether what is recorded is made from the blocks' output, by a norm or by leaving out tokens.
        rounding: How far the start may be from the base model, in float64: not at all, unless the order of a sum
            depends on the strides of the stream, which adapters change.
    """

    name: str
    library: str
    build: Callable[[], nn.Module]
    blocks: int
    mlp: Callable[[nn.Module, Tensor, Size], Tensor] | None
    silence: str
    grid: Callable[[int, Size], Size]
    inputs: Callable[[int, int], dict[str, Any]] = pixels
    sizes: tuple[Size, ...] = ((32, 32), (32, 48))
    extra: Callable[[int], tuple[int, int]] = lambda i: (0, 0)
    branches: bool = True
    arrangement: str = "tokens"
    places: Callable[[dict[str, Any]], Tensor] | None = None
    row_grids: Callable[[dict[str, Any]], list[Size]] | None = None
    order: Callable[[int, Size], Tensor] | None = None
    packed: Callable[[dict[str, Any]], list[tuple[Size, Tensor]]] | None = None
    recorded: tuple[int, ...] | None = None
    checkpointing: bool = True
    reentrant: bool = True
    processed: bool = False
    rounding: float = 0.0

    def model(self, seed: int = 0) -> nn.Module:
        """A fresh model in which every parameter has an effect: none of its branches is dropped by chance."""
        torch.manual_seed(seed)
        model = self.build().eval()
        for module in model.modules():
            if type(module).__name__.endswith("DropPath"):
                module.drop_prob = 0.0
            elif isinstance(module, StochasticDepth):
                module.p = 0.0
        generator = torch.Generator().manual_seed(seed + 7)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
        return model

    def enable_checkpointing(self, model: nn.Module, reentrant: bool) -> None:
        """Switch gradient checkpointing on the way the library does."""
        if hasattr(model, "gradient_checkpointing_enable"):
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        else:
            model.set_grad_checkpointing()

    def call(self, model: nn.Module, size: Size | None = None, **more: Any) -> Any:
        """The model's output for images of a size."""
        height, width = size or self.sizes[0]
        inputs = self.inputs(height, width)
        dtype = next(model.parameters()).dtype
        inputs = {k: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in inputs.items()}
        if "pixel_values" not in inputs or self.library.startswith("transformers"):
            return model(**inputs, **more)
        return model(inputs["pixel_values"], **more)


def tensors(output: Any) -> list[Tensor]:
    """The tensors of a model's output, in order."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        output = list(output.values())
    return [tensor for item in output for tensor in tensors(item)] if isinstance(output, (list, tuple)) else []


def loss(output: Any) -> Tensor:
    """A number that depends on every tensor of the output."""
    parts = [t for t in tensors(output) if t.is_floating_point() and t.requires_grad and t.isfinite().all()]
    parts = [t if t.dim() else t[None] for t in parts]
    return sum((t * torch.linspace(0.5, 1.5, t.shape[-1], dtype=t.dtype)).sum() / t.numel() ** 0.5 for t in parts)


def tapped_blocks(model: nn.Module) -> list[TappedBlock]:
    """The adapted blocks of a model, from the input to the output."""
    return [module for module in model.modules() if isinstance(module, TappedBlock)]


def plain_copy(block: TappedBlock) -> nn.Module:
    """The block as it was before it was adapted: its class, its children, none of the hooks."""
    plain = copy.deepcopy(block)
    plain.__class__ = next(c for c in type(block).__mro__ if c is not TappedBlock and not issubclass(c, TappedBlock))
    for name in plain._tap.adapters:
        del plain._modules[name]
    del plain._tap
    for module in plain.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return plain


def reference_mona(mona: nn.Module, tokens: Tensor, grid: Size, prefix: int, suffix: int) -> Tensor:
    """The paper's formula on the tokens `(N, m)` of one image; extra tokens are images of one pixel."""
    u = mona.norm.norm_scale * mona.norm.norm(tokens) + mona.norm.input_scale * tokens
    z = mona.down(u)
    patches = z[prefix : len(z) - suffix].T.reshape(1, -1, *grid)
    parts = [
        *(_filter(mona, z[i].reshape(1, -1, 1, 1)) for i in range(prefix)),
        _filter(mona, patches),
        *(_filter(mona, z[i].reshape(1, -1, 1, 1)) for i in range(len(z) - suffix, len(z))),
    ]
    z = torch.cat([part.flatten(2)[0].T for part in parts])
    return tokens + mona.up(F.gelu(z))


def _filter(mona: nn.Module, z: Tensor) -> Tensor:
    z = z + sum(F.conv2d(z, c.weight, c.bias, padding=c.padding, groups=z.shape[1]) for c in mona.depthwise) / 3
    return z + F.conv2d(z, mona.pointwise.weight, mona.pointwise.bias)


Reference = Callable[[nn.Module, Tensor, Size, int, int], Tensor]


def adapt_rows(
    family: Family, adapter: nn.Module, x: Tensor, number: int, size: Size, reference: Reference = reference_mona
) -> Tensor:
    """One adapter on the tokens of a block, row by row, from what the family's row says of them."""
    inputs = family.inputs(*size)
    if family.arrangement != "tokens":
        return torch.stack(
            [reference(adapter, row.reshape(-1, x.shape[-1]), row.shape[:2], 0, 0).reshape(row.shape) for row in x]
        )
    if family.packed:
        result = torch.full_like(x, torch.nan)
        for grid, place in family.packed(inputs):
            result[place] = reference(adapter, x[place], grid, 0, 0)
        return result
    prefix, suffix = family.extra(number)
    grids = family.row_grids(inputs) if family.row_grids else [family.grid(number, size)] * len(x)
    places = family.places(inputs) if family.places else [torch.arange(h * w) for h, w in grids]
    if family.order:
        places = [family.order(number, size)] * len(x)
    rows = []
    for row, (height, width), place in zip(x, grids, places, strict=True):
        after = len(row) - prefix - height * width if family.row_grids else suffix
        assert len(row) == prefix + height * width + after
        order = torch.cat([torch.arange(prefix), prefix + place, torch.arange(len(row) - after, len(row))])
        result = reference(adapter, row[order], (height, width), prefix, after)
        rows.append(torch.empty_like(result).index_copy(0, order, result))
    return torch.stack(rows)


def after_attention(family: Family, plain: nn.Module, args: tuple, kwargs: dict) -> Tensor:
    """The stream after attention of a block without adapters, as its MLP branch sees it."""
    silent = copy.deepcopy(plain)
    # releases of transformers before 5 have the MLP in two halves
    silence = family.silence if hasattr(silent, family.silence) else "output"
    for parameter in silent.get_submodule(silence).parameters():
        parameter.zero_()
    x1 = silent(*args, **kwargs)
    x1 = x1[0] if isinstance(x1, tuple) else x1
    return x1.permute(0, 2, 3, 1) if family.arrangement == "channels_first" else x1


def compose(family: Family, block: TappedBlock, number: int, size: Size, args: tuple, kwargs: dict) -> Tensor:
    """The adapted block written out: attention branch, first adapter, MLP branch, second adapter."""
    plain = plain_copy(block)
    adapters = block.mona
    if family.branches:
        x1 = after_attention(family, plain, args, kwargs)
        x1 = adapt_rows(family, adapters.mona_attention["default"], x1, number, size)
        y = x1 + family.mlp(plain, x1, family.grid(number, size))
    else:
        y = plain(*args, **kwargs).permute(0, 2, 3, 1)
        assert y.shape[1:3] == torch.Size(family.grid(number, size))
    y = adapt_rows(family, adapters.mona_mlp["default"], y, number, size)
    return y.permute(0, 3, 1, 2) if family.arrangement == "channels_first" else y
