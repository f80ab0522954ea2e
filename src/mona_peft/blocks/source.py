"""Where a block's token layout comes from: its arguments, its input's shape, or what modules outside it did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from .layout import Layout, RowGroup, RowLayout, ShuffledLayout, TokenLayout
from .modules import copies_at, count_tokens, find_beside, find_caller, find_patch_embedding
from .ordering import UnrolledSequence, sequence_reader
from .recorder import Recorder
from .recorders import ArgumentRecorder, GridRecorder, OrderRecorder, argument_places, recorders_of
from .spec import PADDING, BlockSpec

T = TypeVar("T")


class LayoutSource:
    """Finds the token layout of each call of one block.

    Args:
        model (`nn.Module`): The model that contains the block.
        name (`str`): The block's name in it.
        spec (`BlockSpec`): Its row of the table.
        width (`int`): Channels of its residual stream.

    Raises:
        ValueError: If the grid has no source or the number of extra tokens is unknown. Nothing is changed until
            `start` is called.
    """

    def __init__(self, model: nn.Module, name: str, spec: BlockSpec, width: int) -> None:
        self.name, self.spec = name, spec
        self.prefix, self.suffix, self.optional = (
            count_tokens(model, name, terms)
            for terms in (spec.prefix_tokens, spec.suffix_tokens, spec.optional_tokens)
        )
        self.padded = PADDING in spec.suffix_tokens
        self.argument_places: list[tuple[str, int]] = []
        self.grid_recorder: Recorder | None = None
        self.order_recorder: Recorder | None = None
        self._watched: dict[str, tuple[nn.Module, str]] = {}
        self._sequence = sequence_reader(model, name, spec)
        self._find_modules(model, width)

    @property
    def recorders(self) -> list[Recorder]:
        """The recorders that tell this block's layout."""
        return [recorder for recorder in (self.grid_recorder, self.order_recorder) if recorder is not None]

    def start(self) -> None:
        """Begin to watch the modules that tell the grid and the order of the patches."""
        for use, (holder, path) in self._watched.items():
            recorder = self._new_recorder(use)
            found = [r for module in copies_at(holder, path) for r in recorders_of(module) if r.tells_as(recorder)]
            setattr(self, f"{use}_recorder", found[0] if found else recorder)
            if found:
                continue
            for module in copies_at(holder, path):
                recorder.watch(module)
            embedding, _, inner = path.partition(".")
            if use == "grid" and inner:  # what comes of the convolution leaves through the module that contains it
                for module in copies_at(holder, embedding):
                    module.register_forward_hook(recorder.mark)
        self._watched.clear()

    def pass_by(self) -> None:
        """Note that the block runs without asking for its layout."""
        for recorder in self.recorders:
            recorder.pass_by()

    def follow(self, hidden_states: Tensor, output: object) -> None:
        """Note that the block made `output` of `hidden_states`, so that both are laid out as one."""
        for recorder in self.recorders:
            recorder.follow(hidden_states, output)

    def layout(self, args: tuple, kwargs: dict[str, Any]) -> Layout:
        """Find the token layout of a call of the block with these arguments.

        Raises:
            ValueError: If the grid is unknown or does not fit the number of tokens.
        """
        hidden_states = args[0] if args else next(iter(kwargs.values()))
        if self.spec.grid == "channels_last":
            return TokenLayout(hidden_states.shape[1], hidden_states.shape[2])
        if self.spec.grid == "channels_first":
            return TokenLayout(hidden_states.shape[2], hidden_states.shape[3])
        grid = self._grid(args, kwargs, hidden_states)
        if self._sequence is not None:
            return self._sequence.layout(grid, hidden_states)
        tokens = hidden_states.shape[1]
        if isinstance(grid, Tensor):
            return self._row_layouts(grid.tolist(), tokens)
        layout = self._check(grid, tokens)
        if self.order_recorder is None:
            return layout
        return ShuffledLayout(layout, self._known(self.order_recorder.value(hidden_states, id(self)), self.spec.order))

    def _find_modules(self, model: nn.Module, width: int) -> None:
        spec, name = self.spec, self.name
        block = model.get_submodule(name)
        if spec.grid == "patch_embed":
            # Hiera's later stages are wider than its patches
            found = find_patch_embedding(model, name, spec, None if spec.sequence else width)
            if found is None:
                raise ValueError(
                    f"No convolution that cuts the image into patches was found before block '{name}' "
                    f"({type(block).__name__}, {width} channels), so the height and width of its tokens are unknown. "
                    "Adapt the model that contains the patch embedding, not a part without it; or give the block's "
                    "layout, with another source of the grid, in a `BlockSpec`."
                )
            self._watched["grid"] = found
        elif spec.grid.startswith("."):
            self._watched["grid"] = self._around(model, spec.grid[1:]), ""
        elif "." in spec.grid:
            self._watched["grid"] = self._beside(model, spec.grid.rpartition(".")[0])
        elif spec.grid not in ("channels_last", "channels_first"):
            names = [argument.strip() for argument in spec.grid.split(",")]
            try:
                self.argument_places = list(
                    zip(names, argument_places(type(block).forward.__get__(block), names), strict=True)
                )
            except ValueError as error:
                raise ValueError(f"Block '{name}' ({type(block).__name__}) {error}") from None
        if spec.order:
            self._watched["order"] = self._beside(model, spec.order)

    def _beside(self, model: nn.Module, path: str) -> tuple[nn.Module, str]:
        holder = find_beside(model, self.name, path)
        if holder is None:
            raise ValueError(
                f"The layout of block '{self.name}' ({self.spec.block}) comes from a module '{path}' outside it, "
                "which no module around it has. Adapt the model that contains it, not a part without it."
            )
        return holder, path

    def _around(self, model: nn.Module, argument: str) -> nn.Module:
        caller = find_caller(model, self.name, argument)
        if caller is None:
            raise ValueError(
                f"The layout of block '{self.name}' ({self.spec.block}) comes from the argument '{argument}' of a "
                "module around it, which none has. Adapt the model that contains the whole vision tower."
            )
        return caller

    def _new_recorder(self, use: str) -> Recorder:
        if use == "order":
            return OrderRecorder()
        if self.spec.grid == "patch_embed":
            return GridRecorder()
        return ArgumentRecorder(self.spec.grid.rpartition(".")[2])

    def _grid(self, args: tuple, kwargs: dict[str, Any], hidden_states: Tensor) -> Any:
        """The grid `(height, width)`, or a tensor with one a row."""
        recorder = self.grid_recorder
        grid: Any
        if isinstance(recorder, GridRecorder):
            pooled = self._sequence.pooled if isinstance(self._sequence, UnrolledSequence) else 1
            patches = (hidden_states.shape[1] - self.prefix - self.suffix) * pooled
            grid = recorder.value(hidden_states, id(self), lambda g: g[0] * g[1] in (patches, patches - self.optional))
        elif recorder is not None:
            grid = recorder.value(hidden_states, id(self))
        else:
            values = [
                args[place] if place < len(args) else kwargs.get(argument) for argument, place in self.argument_places
            ]
            grid = values[0] if len(values) == 1 else (None if None in values else tuple(values))
        return self._known(grid, self.spec.grid)

    def _known(self, value: T | None, source: str) -> T:
        if value is None:
            raise ValueError(
                f"The token grid of block '{self.name}' ({self.spec.block}) is unknown: it comes from '{source}', "
                "which gave nothing. Run the block inside its model, from the pixels."
            )
        return value

    def _check(self, grid: Sequence[int], tokens: int) -> TokenLayout:
        height, width = grid
        rest = tokens - height * width - self.prefix - self.suffix
        if rest == 0:
            return TokenLayout(height, width, self.prefix, self.suffix)
        if rest > 0 and self.padded:
            return TokenLayout(height, width, self.prefix, self.suffix + rest)
        if rest > 0 and rest == self.optional:
            return TokenLayout(height, width, self.prefix + rest, self.suffix)
        expected = self.prefix + height * width + self.suffix
        raise ValueError(
            f"Block '{self.name}' ({self.spec.block}) received {tokens} tokens, but a grid of {height} x {width} "
            f"with {self.prefix} tokens before and {self.suffix} after makes {expected}"
            f"{f' (or {expected + self.optional})' if self.optional else ''}. Tokens that were dropped, masked or "
            "added between the patch embedding and the block cannot be laid out on the grid: switch that off."
        )

    def _row_layouts(self, grids: list[list[int]], tokens: int) -> Layout:
        """The layout of a batch whose rows have grids of their own; rows of one grid go together."""
        rows: dict[TokenLayout, list[int]] = {}
        for row, grid in enumerate(grids):
            rows.setdefault(self._check(grid, tokens), []).append(row)
        if len(rows) == 1:
            return next(iter(rows))
        return RowLayout(tuple(RowGroup(members, layout) for layout, members in rows.items()))
