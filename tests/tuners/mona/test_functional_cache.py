"""The weights fused for inference follow the parameters."""

from __future__ import annotations

import copy

import pytest
import torch

from mona_peft import Mona
from mona_peft.blocks.tap import TokenLayout

LAYOUT = TokenLayout(4, 4)


@pytest.fixture
def mona() -> Mona:
    return Mona(12, bottleneck_dim=6, init_weights=False).eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 16, 12)


@torch.no_grad()
def result(mona: Mona, x: torch.Tensor) -> torch.Tensor:
    return mona(x, LAYOUT)


def fresh(mona: Mona, x: torch.Tensor) -> torch.Tensor:
    """What a module gives that has never run with these parameters."""
    new = Mona(12, bottleneck_dim=6).to(mona.down.weight.dtype).eval()
    new.load_state_dict(mona.state_dict())
    return result(new, x)


def test_fused_once(mona, x, monkeypatch):
    fused = []
    original = Mona._fuse
    monkeypatch.setattr(Mona, "_fuse", lambda self, dtype: fused.append(1) or original(self, dtype))
    first = result(mona, x)
    assert torch.equal(result(mona, x), first) and len(fused) == 1
    with torch.inference_mode():
        assert torch.equal(mona(x, LAYOUT), first) and len(fused) == 1


@pytest.mark.parametrize("name", [name for name, _ in Mona(12, bottleneck_dim=6).named_parameters()])
def test_any_parameter_that_changes(mona, x, name):
    before = result(mona, x)
    with torch.no_grad():
        mona.get_parameter(name).add_(1.0)
    assert torch.equal(result(mona, x), fresh(mona, x))
    if name not in ("norm.norm.weight", "norm.norm.bias"):  # these count for a millionth at first
        assert not torch.equal(result(mona, x), before)


def test_an_optimizer_step(mona, x):
    result(mona, x)
    mona(x, LAYOUT).sum().backward()
    torch.optim.AdamW(mona.parameters(), lr=0.1).step()
    assert torch.equal(result(mona, x), fresh(mona, x))


def test_loading(mona, x):
    result(mona, x)
    other = Mona(12, bottleneck_dim=6, init_weights=False)
    for assign in (False, True):
        mona.load_state_dict({k: v + assign for k, v in other.state_dict().items()}, assign=assign)
        assert torch.equal(result(mona, x), fresh(mona, x))


def test_another_type(mona, x):
    result(mona, x)
    mona.double()
    assert torch.equal(result(mona, x.double()), fresh(mona, x.double()))


def test_autocast_has_its_own(mona, x):
    in_float = result(mona, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not torch.equal(result(mona, x), in_float)
    assert torch.equal(result(mona, x), in_float)


def test_copies_are_independent(mona, x):
    before = result(mona, x)
    other = copy.deepcopy(mona)
    with torch.no_grad():
        other.down.weight.add_(1.0)
    assert torch.equal(result(other, x), fresh(other, x))
    assert torch.equal(result(mona, x), before)


def test_dropped_when_training_resumes(mona, x):
    result(mona, x)
    assert mona._cache is not None
    mona.train()
    mona(x, LAYOUT)
    assert mona._cache is None


def test_usable_for_training_after_inference(mona, x):
    with torch.inference_mode():
        mona(x, LAYOUT)
    mona(x.requires_grad_(), LAYOUT).sum().backward()
    assert x.grad is not None and mona.depthwise[0].weight.grad is not None
