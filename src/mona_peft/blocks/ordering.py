"""Reads the layouts of sequences whose patches are not row by row; what those are says [`sequences`]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .layout import Grid, PackedLayout, UnrolledLayout
from .modules import find_attribute, find_patch_embedding
from .sequences import packed_layout
from .spec import BlockSpec

LOST = "Tokens that were dropped or masked before the block cannot be laid out on the grid: switch that off."


@dataclass(frozen=True)
class PackedSequence:
    """The images of a batch in one sequence.

    Args:
        name (`str`): The block's name, for messages.
        merge (`int`): Side of the squares of patches that stand together.
        window (`int`): Side of the windows that stand together, in squares; 0 for none.
    """

    name: str
    merge: int
    window: int = 0

    def layout(self, grid: Tensor, hidden_states: Tensor) -> PackedLayout:
        """The layout of tokens `(N, C)` of images whose grids are the rows `(time, height, width)` of `grid`.

        Raises:
            ValueError: If the grids make another number of patches.
        """
        grids = grid.tolist()
        patches = sum(time * height * width for time, height, width in grids)
        if hidden_states.dim() != 2 or hidden_states.shape[0] != patches:
            raise ValueError(
                f"Block '{self.name}' received tokens {tuple(hidden_states.shape)}, but the grids {grids} make a "
                f"sequence of {patches}. {LOST}"
            )
        return packed_layout(grids, self.merge, self.window, hidden_states.device)


@dataclass(frozen=True)
class UnrolledSequence:
    """Tokens in the order in which Hiera pools them.

    Args:
        name (`str`): The block's name, for messages.
        strides (`tuple[tuple[int, int], ...]`): Of all pooling steps for which the tokens are in order.
        steps (`int`): How many of them the blocks before this one took.
    """

    name: str
    strides: tuple[tuple[int, int], ...]
    steps: int

    @property
    def pooled(self) -> int:
        """How many patches each token of the block comes of."""
        high, wide = self.strides[0] if self.strides else (1, 1)
        return int((high * wide) ** self.steps)

    def layout(self, grid: Grid, hidden_states: Tensor) -> UnrolledLayout:
        """The layout of tokens `(B, N, C)` of a patch embedding of this grid.

        Raises:
            ValueError: If the grid makes another number of tokens.
        """
        height, width = grid
        tokens = hidden_states.shape[1]
        if tokens * self.pooled != height * width:
            raise ValueError(
                f"Block '{self.name}' received {tokens} tokens, but a grid of {height} x {width}, pooled "
                f"{self.steps} times, makes {height * width // self.pooled}. {LOST}"
            )
        for high, wide in self.strides[: self.steps]:
            height, width = height // high, width // wide
        return UnrolledLayout(height, width, self.strides[self.steps :])


def sequence_reader(model: nn.Module, name: str, spec: BlockSpec) -> PackedSequence | UnrolledSequence | None:
    """What reads the layouts of block `name`; None if its patches are row by row.

    Raises:
        ValueError: If no module around the block, and no configuration of one, has the sizes that tell.
    """
    if not spec.sequence:
        return None
    if spec.sequence == "unrolled":
        stride = _known(model, name, "query_stride", "q_stride")
        stages = _known(model, name, "depths", "stage_ends")
        return UnrolledSequence(name, (tuple(stride),) * (len(stages) - 1), _steps_before(model, name, spec))
    merge = _known(model, name, "spatial_merge_size")
    if spec.sequence == "packed":
        return PackedSequence(name, merge)
    pixels = merge * _known(model, name, "patch_size")
    return PackedSequence(name, merge, _known(model, name, "window_size") // pixels)


def _known(model: nn.Module, name: str, *attributes: str) -> Any:
    value = find_attribute(model, name, *attributes)
    if value is None:
        raise ValueError(
            f"The order of the patches of block '{name}' comes from the attribute {' or '.join(attributes)}, which no "
            "module around the block has. Adapt the model that contains it, not a part without it."
        )
    return value


def _steps_before(model: nn.Module, name: str, spec: BlockSpec) -> int:
    """How many blocks before this one pool the tokens."""
    block, found = model.get_submodule(name), find_patch_embedding(model, name, spec, None)
    steps = 0
    for module in found[0].modules() if found else ():
        if module is block:
            break
        steps += spec.matches(module) and _stride(module) > 1
    return steps


def _stride(block: nn.Module) -> int:
    """How many tokens a block of Hiera makes one of."""
    attention: Any = getattr(block, "attn", None)
    return int(getattr(attention, "query_stride", getattr(attention, "q_stride", 1)))
