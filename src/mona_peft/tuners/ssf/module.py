"""SSF's scale and shift as a plain module.

Paper: "Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning" (NeurIPS 2022,
https://arxiv.org/abs/2210.08823), section 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ScaleShift(nn.Module):
    """`scale * x + shift`, both vectors over the channels.

    Args:
        dim (`int`): Channels.
        channel_dim (`int`): Which dimension of the input they are: -1 for tokens, 1 for images `(B, C, H, W)`.
        init_weights (`bool`): True for scales of 1 and shifts of 0; False for the authors' normal draws of 0.02 around
            them.
    """

    def __init__(self, dim: int, channel_dim: int = -1, init_weights: bool = True) -> None:
        super().__init__()
        self.channel_dim = channel_dim
        self.scale = nn.Parameter(torch.ones(dim))
        self.shift = nn.Parameter(torch.zeros(dim))
        if not init_weights:
            nn.init.normal_(self.scale, mean=1.0, std=0.02)
            nn.init.normal_(self.shift, std=0.02)

    def forward(self, x: Tensor, residual: bool = True) -> Tensor:
        """Scale and shift `x`, to the same shape.

        Args:
            x (`Tensor`): The input.
            residual (`bool`): Whether `x` itself is part of the result.
        """
        shape = (-1, 1, 1) if self.channel_dim == 1 else (-1,)
        difference = (self.scale - 1).view(shape) * x + self.shift.view(shape)
        return x + difference if residual else difference

    def delta(self, x: Tensor) -> Tensor:
        """The difference that scale and shift make to `x`; a call of the module, so that its hooks run."""
        return self(x, residual=False)
