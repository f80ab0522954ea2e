"""Whole adapted models equal those whose adapters run by the formulas."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers import SwinForImageClassification, ViTForImageClassification

from mona_peft import Mona, MonaConfig
from mona_peft.tuners.mona import fast
from mona_peft.tuners.mona.reference import use_plain
from tests.support.models import swin_config, vit_config

MODELS = {
    "swin": lambda: SwinForImageClassification(swin_config()),
    "vit": lambda: ViTForImageClassification(vit_config()),
}


def make_model(name: str, adapters: int = 1, **options) -> nn.Module:
    torch.manual_seed(0)
    settings = {"bottleneck_dim": 8, "mona_dropout": 0.0, "init_weights": False, "modules_to_save": ["classifier"]}
    model = get_peft_model(MODELS[name]().double(), MonaConfig(**settings | options), autocast_adapter_dtype=False)
    for number in range(1, adapters):
        model.add_adapter(f"other{number}", MonaConfig(**settings | options | {"bottleneck_dim": 4}))
    if adapters > 1:
        model.base_model.set_adapter(["default", *(f"other{number}" for number in range(1, adapters))])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double()


def run(model: nn.Module) -> list[torch.Tensor]:
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logits = model(pixel_values=images).logits
    logits.square().sum().backward()
    return [logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


def assert_equal(got: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    assert len(got) == len(wanted) > 20
    for one, other in zip(got, wanted, strict=True):
        assert (one - other).abs().max() <= 1e-11 * other.abs().max()


@pytest.fixture
def calls(monkeypatch) -> list[bool]:
    """Notes each call of the one function, and whether it gives the new stream rather than a difference."""
    calls: list[bool] = []
    original = fast.run

    def run(x, extra, kept, options, parameters, dtype):
        calls.append(options.add)
        return original(x, extra, kept, options, parameters, dtype)

    monkeypatch.setattr(fast, "run", run)
    return calls


@pytest.mark.parametrize("positions", [("attention", "mlp"), ("attention",), ("mlp",)], ids="-".join)
@pytest.mark.parametrize("name", MODELS)
def test_positions(name, positions, calls):
    model = make_model(name, positions=positions)
    monas = sum(isinstance(module, Mona) for module in model.modules())
    plain = use_plain(copy.deepcopy(model))
    got = run(model)
    assert calls == [True] * monas
    assert_equal(got, run(plain))
    assert calls == [True] * monas  # the plain model used none


@pytest.mark.parametrize("name", MODELS)
def test_several_adapters(name, calls):
    model = make_model(name, adapters=2, modules_to_save=None)
    plain = use_plain(copy.deepcopy(model))
    assert_equal(run(model), run(plain))
    assert calls and not any(calls)


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_gradient_checkpointing(name, use_reentrant):
    model = make_model(name).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    plain = use_plain(copy.deepcopy(model))
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    assert_equal(run(model), run(plain))


def test_gradient_checkpointing_repeats_the_dropout_masks():
    model = make_model("swin", mona_dropout=0.5).train()
    other = copy.deepcopy(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(7)
    got = run(model)
    torch.manual_seed(7)
    assert_equal(got, run(other))


def test_inference_equals_training_mode_without_dropout():
    model = make_model("vit").eval()
    wanted = run(model)[0]
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for mode in (torch.no_grad, torch.inference_mode):
        for _ in range(2):  # the second time with the fused weights at hand
            with mode():
                assert torch.allclose(model(pixel_values=images).logits, wanted, rtol=0, atol=1e-12)
