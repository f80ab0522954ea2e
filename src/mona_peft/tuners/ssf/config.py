"""Configuration of the SSF tuner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mona_peft.tuners.base.config import BlockTunerConfig


@dataclass
class SSFConfig(BlockTunerConfig):
    """Configuration of an [`SSFModel`].

    SSF scales and shifts the output of every linear layer, layer norm and convolution of the backbone (NeurIPS 2022,
    https://arxiv.org/abs/2210.08823). As long as all blocks are adapted, the layers before, between and after the
    blocks are too; with `target_modules`, `exclude_modules` or `layers_to_transform`, only those of the chosen blocks.
    """

    method: ClassVar[str] = "ssf"

    @property
    def whole_backbone(self) -> bool:
        """Whether the layers outside the blocks are adapted."""
        return self.target_modules is None and self.exclude_modules is None and self.layers_to_transform is None
