"""The depthwise kernel's gradient and the dropout masks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mona_peft.tuners.mona import depthwise
from mona_peft.tuners.mona.dropout import draw_dropped, dropout


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize(
    ("small", "large", "strip"), [(10**6, 10**6, 1), (0, 10**6, 1), (0, 0, 1), (0, 0, 35)], ids=str
)
def test_kernel_gradient(size, small, large, strip, monkeypatch):
    """All ways to compute it; strips of a row, and of rows that do not divide the height."""
    for name, value in (("SMALL_GRID", small), ("LARGE_GRID", large), ("STRIP", strip)):
        monkeypatch.setattr(depthwise, name, value)
    z, grad = torch.randn(2, 3, 8, 11, 4, dtype=torch.float64).unbind()
    kernel = torch.zeros(4, 1, size, size, dtype=torch.float64, requires_grad=True)
    F.conv2d(z.permute(0, 3, 1, 2), kernel, padding=size // 2, groups=4).backward(grad.permute(0, 3, 1, 2))
    got = depthwise.correlate(z, grad, size)
    assert (got - kernel.grad).abs().max() <= 1e-12 * kernel.grad.abs().max()
    single = depthwise.correlate(z.float(), grad.float(), size)
    assert (single - kernel.grad).abs().max() <= 1e-5 * kernel.grad.abs().max()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_drops_that_share(p):
    drawn, scale = draw_dropped((1000, 1001), p, torch.device("cpu"))
    dropped = drawn.double()
    share = dropped.mean().item()
    assert abs(share - p) < 5 * (p * (1 - p) / dropped.numel()) ** 0.5 + 2**-16
    assert abs(scale * (1 - p) - 1) < 2**-15 / (1 - p)
    columns = dropped.double().mean(0)
    assert columns.std() < 1.2 * (p * (1 - p) / 1000) ** 0.5  # no pattern over the places in a word


def test_dropout_neighbours_are_independent():
    dropped = draw_dropped((10**6,), 0.5, torch.device("cpu"))[0].double() - 0.5
    for lag in (1, 2, 3, 4, 8):
        assert abs((dropped[:-lag] * dropped[lag:]).mean().item()) < 5 * 0.25 / 10**3


def test_dropout_follows_the_seed():
    x = torch.ones(999)
    torch.manual_seed(3)
    first = dropout(x, 0.5, True)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.5, True), first)
    assert not torch.equal(dropout(x, 0.5, True), first)
    assert set(first.tolist()) == {0.0, 2.0}


def test_dropout_near_one_keeps_its_scale_finite():
    dropped, scale = draw_dropped((10**5,), 1 - 1e-7, torch.device("cpu"))
    assert scale == 2**16 and dropped.double().mean() > 0.999


def test_no_dropout_gives_the_input():
    x = torch.randn(5)
    assert dropout(x, 0.0, True) is x and dropout(x, 0.5, False) is x
