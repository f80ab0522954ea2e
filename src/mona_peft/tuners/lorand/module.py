"""The LoRand adapter as a plain module.

Paper: "1% VS 100%: Parameter-Efficient Low Rank Adapter for Dense Predictions" (CVPR 2023), section 3. The paper's
count of `2 * alpha * beta * (m + n) + alpha * beta**2` parameters has no biases; neither has this module.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LoRand(nn.Module):
    """A bottleneck adapter whose two projections are sums of low-rank products with a shared middle factor.

    `Down = sum_i P_i K_i Q_i` maps m to n, `Up = sum_i R_i K_i S_i` maps n to m, i over `branches`.

    Args:
        dim (`int`): Channels m.
        bottleneck_dim (`int`): Channels n between the projections.
        branches (`int`): Products in a sum, alpha in the paper.
        rank (`int`): Rank of each product, beta in the paper.
        dropout (`float`): Dropout probability before the up projection.
        init_weights (`bool`): True for a module that starts as the identity: the last factors of Up are zero.
    """

    def __init__(
        self,
        dim: int,
        bottleneck_dim: int,
        branches: int = 2,
        rank: int = 8,
        dropout: float = 0.1,
        init_weights: bool = True,
    ) -> None:
        super().__init__()
        self.down_left = nn.Parameter(torch.empty(branches, dim, rank))
        self.down_right = nn.Parameter(torch.empty(branches, rank, bottleneck_dim))
        self.kernel = nn.Parameter(torch.empty(branches, rank, rank))
        self.up_left = nn.Parameter(torch.empty(branches, bottleneck_dim, rank))
        self.up_right = nn.Parameter(torch.empty(branches, rank, dim))
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters(init_weights)

    def reset_parameters(self, init_weights: bool = True) -> None:
        """Draw each factor so that signals keep their size through it."""
        for factor in (self.down_left, self.down_right, self.kernel, self.up_left, self.up_right):
            nn.init.normal_(factor, std=1 / math.sqrt(factor.shape[1]))
        if init_weights:
            nn.init.zeros_(self.up_right)

    def forward(self, x: Tensor, residual: bool = True) -> Tensor:
        """Map `(..., m)` to the same shape.

        Args:
            x (`Tensor`): The input.
            residual (`bool`): Whether `x` itself is part of the result.
        """
        z = F.gelu(self._project(x, self.down_left, self.down_right))
        added = self._project(self.dropout(z), self.up_left, self.up_right)
        return x + added if residual else added

    def delta(self, x: Tensor) -> Tensor:
        """What the adapter adds to `x`, `(..., m)`; a call of the module, so that its hooks run."""
        return self(x, residual=False)

    def _project(self, x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Multiply `(..., a)` by the sum of the products `(a, rank) (rank, rank) (rank, b)`, the low ranks first."""
        inner = torch.bmm(left, self.kernel)  # (branches, a, rank)
        stacked = inner.transpose(0, 1).flatten(1)  # (a, branches * rank)
        return x @ stacked @ right.flatten(0, 1)  # (branches * rank, b)
