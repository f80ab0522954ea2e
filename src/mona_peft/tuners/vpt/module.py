"""The prompts of one block as a plain module.

Paper: "Visual Prompt Tuning" (ECCV 2022, https://arxiv.org/abs/2203.12119), section 3.2, deep prompts. Reference: the
authors' code (https://github.com/KMnP/vpt), for the first values and the dropout, which drops other values for each
image. Deviation: so it does in all blocks of Swin, where the authors' code has one mask a batch after the first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def uniform_bound(patch_values: int, width: int) -> float:
    """The authors' bound of the first values of prompts.

    Args:
        patch_values (`int`): Values of a patch: 3 * 16 * 16 for colour images and patches of 16 x 16.
        width (`int`): Channels of the model's first block.
    """
    return math.sqrt(6 / (patch_values + width))


class Prompts(nn.Module):
    """Learnt tokens that join those of an image.

    Args:
        dim (`int`): Channels.
        num_tokens (`int`): How many.
        dropout (`float`): Dropout probability on them.
        bound (`float`, *optional*): Bound of their first values, drawn uniformly; by default that of a plain model
            with patches of 16 x 16.
    """

    def __init__(self, dim: int, num_tokens: int = 10, dropout: float = 0.0, bound: float | None = None) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(num_tokens, dim))
        self.dropout = nn.Dropout(dropout)
        bound = uniform_bound(3 * 16 * 16, dim) if bound is None else bound
        nn.init.uniform_(self.tokens, -bound, bound)

    def forward(self, batch: int) -> Tensor:
        """Give the prompts `(batch, num_tokens, dim)`, with a dropout of its own for each."""
        # a copy: sharding frees the memory of the parameter behind a view
        return self.dropout(self.tokens.repeat(batch, 1, 1))
