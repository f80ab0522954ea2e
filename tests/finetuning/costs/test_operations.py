"""The operations of an adapter are counted, and are no more than they were."""

from __future__ import annotations

import pytest
import torch

from mona_peft.blocks.layout import TokenLayout
from mona_peft.finetuning.costs.operations import Count, adapter_operations, count_operations

SWIN, VIT = TokenLayout(4, 4), TokenLayout(4, 4, 1)


def test_views_are_free_and_foreach_is_one_call():
    x, out = torch.randn(4, 4), torch.empty(2, 4, 4)

    def call():
        torch._foreach_mul([x, x], 2.0)
        y = x.t().reshape(16)  # copies
        x.view(16)[:4].add_(y[:4])
        torch.nn.functional.linear(x, x)
        out.new_empty(3)

    assert count_operations(call) == Count(calls=4, kernels=5)


@pytest.mark.parametrize(
    ("layout", "autocast", "most"),
    [
        (SWIN, False, (16, 26, 13)),
        (SWIN, True, (18, 35, 15)),
        (VIT, False, (18, 33, 15)),
        (VIT, True, (20, 42, 17)),
    ],
    ids=["swin", "swin-autocast", "vit", "vit-autocast"],
)
def test_an_adapter_calls_no_more_than_this(layout, autocast, most):
    """Forward, backward and inference: each of them is a launch on a GPU, and Python's time everywhere."""
    for extra in (False, True):
        counts = adapter_operations(layout, dim=16, autocast=autocast, extra=extra)
        assert list(counts) == ["forward", "backward", "inference"]
        assert all(0 < count.calls <= limit for count, limit in zip(counts.values(), most, strict=True)), counts
        assert all(count.kernels >= count.calls for count in counts.values())
