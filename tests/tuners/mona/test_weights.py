"""Inference follows every change of the parameters, also those that leave no trace."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mona_peft import Mona
from mona_peft.blocks.layout import TokenLayout

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


def through_data(parameter: torch.Tensor) -> None:
    parameter.data.add_(1.0)


def through_numpy(parameter: torch.Tensor) -> None:
    parameter.detach().numpy()[...] += 1.0


def through_a_fused_optimizer(parameter: torch.Tensor) -> None:
    parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW([parameter], lr=1.0, fused=True).step()


@pytest.mark.parametrize("change", [through_data, through_numpy, through_a_fused_optimizer])
@pytest.mark.parametrize("name", ["up.weight", "depthwise.0.weight", "pointwise.bias", "norm.input_scale"])
def test_changes_that_move_no_version_counter(mona, x, name, change):
    before = result(mona, x)
    change(mona.get_parameter(name))
    assert torch.equal(result(mona, x), fresh(mona, x))
    assert not torch.equal(result(mona, x), before)


def test_a_copy_after_an_evaluation_with_changed_parameters(mona, x):
    """The loop that keeps the best average: evaluate, change, evaluate, copy."""
    result(mona, x)
    with torch.no_grad():
        mona.down.weight.mul_(2)
    wanted = result(mona, x)
    with torch.inference_mode():
        mona(x, LAYOUT)
    assert torch.equal(result(copy.deepcopy(mona), x), wanted)


def test_parameters_can_be_swapped_after_an_evaluation(mona, x):
    result(mona, x)
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        mona.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
    assert torch.equal(result(mona, x.double()), fresh(mona, x.double()))


def test_threads_with_types_and_modes_of_their_own(mona, x):
    def in_bfloat16() -> torch.Tensor:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            return mona(x, LAYOUT)

    def with_gradient() -> torch.Tensor:
        out = mona(x, LAYOUT)
        out.sum().backward(inputs=[mona.up.bias])
        return out.detach()

    calls = [lambda: result(mona, x), in_bfloat16, with_gradient]
    wanted = [call() for call in calls]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda number: calls[number % 3](), range(300)))
    assert all(torch.equal(one, wanted[number % 3]) for number, one in enumerate(found))


def test_usable_for_training_after_inference(mona, x):
    with torch.inference_mode():
        mona(x, LAYOUT)
    mona(x.requires_grad_(), LAYOUT).sum().backward()
    assert x.grad is not None and mona.depthwise[0].weight.grad is not None
