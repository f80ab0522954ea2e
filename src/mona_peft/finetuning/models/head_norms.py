"""Norms of the heads' convolutions, by name.

The official recipes synchronise batch norm over all processes, for a process alone sees two images and the heads'
coarsest map has one pixel of each. Where one process is all there is, `sync` is plain batch norm, and accumulation
does not widen its batch; `group` depends on no batch at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

#: Channels a group, as in the paper of group norm (arXiv 1803.08494). Fewer would leave the coarsest map of UperNet,
#: one pixel, with nothing to normalise over.
GROUP_CHANNELS = 16


class SyncBatchNorm2d(nn.SyncBatchNorm):
    """Batch norm over the samples of all processes, which PyTorch computes on GPUs alone."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `(B, C, H, W)`.

        Raises:
            ValueError: If several processes train on the CPU.
        """
        if self.training and input.device.type == "cpu" and _count_processes() > 1:
            raise ValueError(
                f"head_norm is 'sync', but PyTorch synchronises batch norm on GPUs alone, and {_count_processes()} "
                "processes train on the CPU. Give head_norm: group, or batch for the statistics of each process."
            )
        # One process has nothing to wait for, and `nn.SyncBatchNorm` would refuse it on the CPU.
        return super().forward(input) if _count_processes() > 1 else _BatchNorm.forward(self, input)


def _count_processes() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics stay as they are, in training as well; scale and shift train."""

    def train(self, mode: bool = True) -> FrozenBatchNorm2d:
        """Stay in evaluation."""
        super().train(False)
        return self


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with about `GROUP_CHANNELS` a group."""
    return nn.GroupNorm(math.gcd(channels, max(1, channels // GROUP_CHANNELS)), channels)


#: By the value of `head_norm`: makes a norm of so many channels.
HEAD_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "sync": SyncBatchNorm2d,
    "group": group_norm,
    "frozen": FrozenBatchNorm2d,
}


def find_head_norm(name: str) -> Callable[[int], nn.Module]:
    """What makes the norms called `name`.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in HEAD_NORMS:
        raise ValueError(f"head_norm is {name!r}; choose one of {', '.join(HEAD_NORMS)}.")
    return HEAD_NORMS[name]
