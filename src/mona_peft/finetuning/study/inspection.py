"""What trained Mona adapters have learnt: their filters, their scales, and how much each adds to the stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mona_peft.tuners.mona import Mona


@dataclass(frozen=True)
class Contribution:
    """How much one adapter adds.

    Args:
        name (`str`): The adapter's place in the model.
        added (`float`): Root mean square of what it adds.
        stream (`float`): Root mean square of the residual stream it reads.
    """

    name: str
    added: float
    stream: float

    @property
    def share(self) -> float:
        """What it adds as a share of the stream."""
        return self.added / self.stream


def named_monas(model: nn.Module) -> dict[str, Mona]:
    """The Mona adapters of a model by name, from the input to the output."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Mona)}


def short_name(name: str) -> str:
    """Stage, block and position of an adapter, from its full name: `1.0 mlp`."""
    parts = name.split(".")
    place = next((part for part in parts if part.startswith("mona_")), "mona_")
    numbers = [part for part in parts if part.isdigit()]
    return f"{'.'.join(numbers)} {place.removeprefix('mona_')}"


def mean_filters(mona: Mona) -> list[Tensor]:
    """For each depthwise filter, the mean size of its taps over the channels, `(k, k)`."""
    return [convolution.weight.detach().abs().mean((0, 1)) for convolution in mona.depthwise]  # type: ignore[operator]


def scales(mona: Mona) -> dict[str, Tensor]:
    """The scale vectors of an adapter's scaled norms by parameter name; empty for a design without."""
    wanted = ("norm_scale", "input_scale")
    return {name: p.detach() for name, p in mona.named_parameters() if name.rpartition(".")[2] in wanted}


def contributions(model: nn.Module, pixel_values: Tensor) -> list[Contribution]:
    """Measure what each adapter adds to the residual stream of some images.

    Args:
        model (`nn.Module`): An adapted model; its mode is as before afterwards.
        pixel_values (`Tensor`): `(B, 3, H, W)`.
    """
    was_training = model.training
    model.eval()
    try:
        with _recorded(named_monas(model)) as found, torch.no_grad():
            model(pixel_values=pixel_values)
    finally:
        model.train(was_training)
    return [Contribution(short_name(name), _rms(delta), _rms(x)) for name, (x, delta) in found.items()]


@contextmanager
def _recorded(monas: dict[str, Mona]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Keep input and output of every `delta` in the order of the calls; the adapters run their plain form."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    before = {name: mona.fast_path for name, mona in monas.items()}

    def record(name: str, mona: Mona) -> None:
        def delta(x: Tensor, layout: object) -> Tensor:
            result = Mona.delta(mona, x, layout)  # type: ignore[arg-type]
            found[name] = (x, result)
            return result

        mona.delta = delta  # type: ignore[method-assign]
        mona.fast_path = False

    for name, mona in monas.items():
        record(name, mona)
    try:
        yield found
    finally:
        for name, mona in monas.items():
            del mona.delta
            mona.fast_path = before[name]


def _rms(x: Tensor) -> float:
    return x.float().square().mean().sqrt().item()
