"""An exponential moving average of the weights that train, which is evaluated and kept in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from mona_peft.finetuning.models.weights import read_weights, save_weights

#: In a checkpoint, next to the weights as the optimiser has them.
AVERAGED = "averaged.safetensors"


class AveragedWeights:
    """Keeps the average, in float32.

    Early in a run the average follows faster: after step t its decay is at most (1 + t) / (10 + t).

    Args:
        model (`nn.Module`): Whose trainable parameters are averaged, where they train.
        decay (`float`): Share of the average that stays at each step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.state = {name: p.detach().float().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimiser step number `step`, which counts from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in self.parameters.items():
            self.state[name].lerp_(parameter.float(), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model have the averaged weights for a while."""
        own = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self._put(self.state)
        try:
            yield
        finally:
            self._put(own)

    def save(self, folder: Path) -> None:
        """Write the average into the folder of a checkpoint."""
        save_weights(self.state, folder / AVERAGED)

    def load(self, folder: Path) -> None:
        """Take up the average of a checkpoint.

        Raises:
            ValueError: If the file is missing or damaged, or is of another model.
        """
        stored = read_weights(folder / AVERAGED)
        if stored.keys() != self.state.keys():
            raise ValueError(
                f"{folder / AVERAGED} is of another model: {sorted(stored.keys() ^ self.state.keys())[:3]}."
            )
        for name, tensor in stored.items():
            self.state[name].copy_(tensor)

    @torch.no_grad()
    def _put(self, state: dict[str, torch.Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(state[name])
