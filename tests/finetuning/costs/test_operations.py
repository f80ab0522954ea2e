"""The operations of an adapter are counted, and are no more than they were."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mona_peft.blocks.layout import TokenLayout
from mona_peft.finetuning.costs.operations import Count, count_operations
from mona_peft.tuners.mona import Mona

SWIN, VIT = TokenLayout(4, 4), TokenLayout(4, 4, 1)


def adapter_operations(
    layout: TokenLayout, batch: int = 1, dim: int = 96, autocast: bool = False, extra: bool = False
) -> dict[str, Count]:
    """Count what one Mona adapter of the usual settings runs in training, and at inference.

    Args:
        layout (`TokenLayout`): Of its tokens.
        batch (`int`): Images.
        dim (`int`): Channels of the stream.
        autocast (`bool`): Whether it runs under bfloat16 autocast.
        extra (`bool`): Whether it stands after the MLP, where another adapter's delta is added first; otherwise it
            stands after attention, where its own is given out.

    Returns:
        `dict[str, Count]`: Of `forward`, `backward` and `inference`.
    """
    mona = Mona(dim)
    tokens = layout.prefix + layout.height * layout.width + layout.suffix
    x, more, grad = (torch.randn(batch, tokens, dim) for _ in range(3))
    x.requires_grad_()

    def run() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out, delta = mona.stream(x, layout, more if extra else None, split=not extra)
        return out if delta is None else torch.stack([out, delta])

    result = run()
    gradient = grad if extra else torch.stack([grad, grad])
    inputs = [x, *mona.parameters()]
    counts = {"forward": count_operations(run)}
    counts["backward"] = count_operations(lambda: torch.autograd.grad(result, inputs, gradient, retain_graph=True))
    with torch.no_grad():
        mona.eval()
        counts["inference"] = count_operations(run)
    # The two results of a position after attention were joined here.
    return counts if extra else {name: Count(*(n - 1 for n in count)) for name, count in counts.items()}


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
        (SWIN, False, (17, 27, 14)),
        (SWIN, True, (19, 36, 16)),
        (VIT, False, (19, 34, 16)),
        (VIT, True, (21, 43, 18)),
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
