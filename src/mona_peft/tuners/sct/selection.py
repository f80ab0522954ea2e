"""Which channels of a frozen backbone are salient for a set of labelled images.

The score of a channel is the class-aware one of the paper, as the authors' code computes it: the L2 norm of the
channel's values at all patch tokens of all images of a class, in the residual stream, then the mean over the classes.
The model runs as in evaluation, without what this package's adapters add to the stream.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mona_peft.blocks.layout import Layout, PackedLayout, TokenLayout
from mona_peft.blocks.rows import apply_layout, choose_adapters
from mona_peft.blocks.tapped import TappedBlock

from .layer import SCTLayer


@torch.no_grad()
def select_salient_channels(
    model: nn.Module, batches: Iterable[tuple[Tensor | Mapping[str, Tensor], Tensor]], adapter_name: str = "default"
) -> None:
    """Select the channels that an SCT adapter maps, from what the frozen backbone makes of training images.

    Args:
        model (`nn.Module`): A model with an SCT adapter, wrapped by PEFT or not.
        batches (`Iterable`): Pairs of the model's inputs, a mapping of keyword arguments or the images `(B, 3, H, W)`
            alone, and the labels `(B,)`, whole numbers; all on the model's device.
        adapter_name (`str`): The adapter.

    Raises:
        ValueError: If the model has no such adapter, the labels are not one whole number an image, or there are no
            batches.
    """
    layers = {block: layer for block, layer in _sct_layers(model) if layer.maps(adapter_name)}
    if not layers:
        known = sorted({name for _, layer in _sct_layers(model) for name in (*layer.sct_attention, *layer.sct_mlp)})
        raise ValueError(f"The model has no SCT adapter '{adapter_name}'; it has {known}. Add one with `SCTConfig`.")
    watches = [_Watch(block, list(layer.maps(adapter_name))) for block, layer in layers.items()]
    with contextlib.ExitStack() as stack:
        stack.enter_context(_evaluating(model))
        stack.enter_context(choose_adapters([]))  # the blocks run as those of the base model
        for watch in watches:
            stack.enter_context(watch)
        for inputs, labels in batches:
            _check_labels(labels)
            for watch in watches:
                watch.labels = labels
            model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
    for watch, layer in zip(watches, layers.values(), strict=True):
        for position, channel_map in layer.maps(adapter_name).items():
            channel_map.select(watch.scores(position).to(channel_map.channels.device))


class _Watch:
    """Adds up the squares of the channels of a block's residual stream, class by class; a context manager."""

    def __init__(self, block: TappedBlock, positions: list[str]) -> None:
        self.block = block
        self.squares: dict[str, dict[int, Tensor]] = {position: {} for position in positions}
        self.labels = torch.empty(0)
        self.layout: Layout = TokenLayout(0, 0)
        self.handles: list[RemovableHandle] = []

    def __enter__(self) -> None:
        entry = self.block.get_submodule(self.block._tap.spec.entry)
        self.handles.append(self.block.register_forward_pre_hook(self._start, with_kwargs=True))
        self.handles.append(entry.register_forward_pre_hook(self._after_attention))
        self.handles.append(self.block.register_forward_hook(self._after_mlp))

    def __exit__(self, *error: object) -> None:
        for handle in self.handles:
            handle.remove()

    def scores(self, position: str) -> Tensor:
        """The score of each channel, `(C,)`.

        Raises:
            ValueError: If nothing was seen.
        """
        norms = [squares.sqrt() for squares in self.squares[position].values()]
        if not norms:
            raise ValueError("There were no batches to select the channels from; pass some of the training data.")
        return torch.stack(norms).mean(0)

    def _start(self, block: nn.Module, args: tuple, kwargs: dict[str, object]) -> None:
        self.layout = self.block._tap.layout(args, kwargs)

    def _after_attention(self, entry: nn.Module, args: tuple) -> None:
        self._see("attention", args[0])

    def _after_mlp(self, block: nn.Module, args: tuple, output: Any) -> None:
        hidden_states = output[0] if isinstance(output, tuple) else output
        if self.block._tap.spec.grid == "channels_first":
            hidden_states = hidden_states.permute(0, 2, 3, 1)
        self._see("mlp", hidden_states)

    def _see(self, position: str, hidden_states: Tensor) -> None:
        if position not in self.squares:
            return
        if isinstance(self.layout, PackedLayout):
            raise ValueError(
                "Salient channels are selected by images with a label each, but these are packed into one sequence. "
                "Choose another method."
            )
        if len(self.labels) != len(hidden_states):
            raise ValueError(
                f"There are {len(self.labels)} labels for {len(hidden_states)} images; pass one for each."
            )
        squares = apply_layout(_patch_squares, hidden_states, self.layout)
        assert squares is not None
        by_image = squares.flatten(1, -2).sum(1).double().cpu()  # (B, C)
        totals = self.squares[position]
        for label, image in zip(self.labels.tolist(), by_image, strict=True):
            totals[label] = totals[label] + image if label in totals else image


def _patch_squares(hidden_states: Tensor, layout: TokenLayout) -> Tensor:
    """The squares of `(B, N, C)`, or of an image `(B, H, W, C)`; zero for the tokens that are no patches."""
    squares = hidden_states.float().square()
    if layout.prefix or layout.suffix:
        squares[:, : layout.prefix] = 0
        squares[:, squares.shape[1] - layout.suffix :] = 0
    return squares


def _sct_layers(model: nn.Module) -> Iterator[tuple[TappedBlock, SCTLayer]]:
    """The blocks with SCT adapters, and their layers."""
    for module in model.modules():
        for child in module.children():
            if isinstance(child, SCTLayer) and isinstance(module, TappedBlock):
                yield module, child


def _check_labels(labels: object) -> None:
    if not isinstance(labels, Tensor) or labels.dim() != 1 or labels.is_floating_point():
        given = f"{labels.dtype} of shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else repr(labels)
        raise ValueError(
            f"The labels are {given}, but salient channels are selected by class: pass one whole number an image, as "
            "a tensor (B,); zeros score all images as one class."
        )


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, with the mode of each module put back at the end."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
