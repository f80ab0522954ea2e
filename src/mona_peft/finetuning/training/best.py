"""The best weights of a run: in a file, or in memory for a run without a folder."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from mona_peft.finetuning.models.weights import load_weights, read_weights, save_weights

from .sharding import bare_name, is_sharded, load_sharded_weights

BEST_WEIGHTS = "best.safetensors"


class BestWeights:
    """Keeps what trains of the best model so far.

    Args:
        accelerator (`Accelerator`): Holds the prepared model.
        names (`frozenset[str]`): What trains, by the names of the bare model.
        folder (`Path`, *optional*): Of the run; in memory without one.
    """

    def __init__(self, accelerator: Accelerator, names: frozenset[str], folder: Path | None) -> None:
        self.accelerator = accelerator
        self.names = names
        self.path = None if folder is None else folder / BEST_WEIGHTS
        self.state: dict[str, torch.Tensor] = {}

    def keep(self, model: nn.Module) -> None:
        """Keep the weights of the prepared model that train, as they are now."""
        state = self.accelerator.get_state_dict(model)
        if not self.accelerator.is_main_process and self.path is not None:
            return
        names = {bare_name(name): name for name in state}
        kept = {name: state[names[name]].detach() for name in self.names}
        if self.path is None:
            self.state = {name: tensor.clone() for name, tensor in kept.items()}
        else:
            save_weights(kept, self.path)

    def restore(self, bare: nn.Module) -> None:
        """Put the kept weights into the bare model.

        Raises:
            ValueError: If the file is damaged.
        """
        self.accelerator.wait_for_everyone()
        if self.path is None:
            bare.load_state_dict(self.state, strict=False)
        elif is_sharded(self.accelerator):
            load_sharded_weights(bare, self.path)
        else:
            load_weights(bare, self.path)

    def problem(self) -> str | None:
        """What is wrong with the file, or `None`."""
        assert self.path is not None
        try:
            read_weights(self.path)
        except ValueError as error:
            return str(error)
        return None
