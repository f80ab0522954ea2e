"""The prompts of one block as a plain module.

Paper: "Visual Prompt Tuning" (ECCV 2022, https://arxiv.org/abs/2203.12119), section 3.2, deep prompts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Prompts(nn.Module):
    """Learnt tokens that join those of an image.

    Args:
        dim (`int`): Channels.
        num_tokens (`int`): How many.
        dropout (`float`): Dropout probability on them.
    """

    def __init__(self, dim: int, num_tokens: int = 10, dropout: float = 0.0) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(num_tokens, dim))
        self.dropout = nn.Dropout(dropout)
        # The authors' bound counts the values of an RGB patch of 16x16 pixels as inputs.
        bound = math.sqrt(6 / (3 * 16 * 16 + dim))
        nn.init.uniform_(self.tokens, -bound, bound)

    def forward(self, batch: int) -> Tensor:
        """Give the prompts `(batch, num_tokens, dim)`."""
        return self.dropout(self.tokens.expand(batch, -1, -1))
