"""Parts that are parametrised, hooked, replaced or offloaded are called as modules, and so is a hooked adapter."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from accelerate import cpu_offload
from peft import get_peft_model
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations, prune

from mona_peft import Mona, MonaConfig
from mona_peft.blocks.layout import TokenLayout
from mona_peft.tuners.mona.reference import plain_delta
from tests.support.models import TINY_MODELS, images, predict, randomise
from tests.tuners.mona.test_functional import LAYOUTS, assert_equal, make_mona, make_tokens, run

pytestmark = pytest.mark.filterwarnings("ignore")

PARTS = ["norm", "norm.norm", "down", "depthwise.0", "depthwise.2", "pointwise", "dropout", "up"]
WEIGHTED = ["down", "depthwise.0", "depthwise.2", "pointwise", "up"]
CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "pruned": lambda part: prune.random_unstructured(part, "weight", 0.5),
    "spectral norm": lambda part: parametrizations.spectral_norm(part),
    "weight norm": lambda part: parametrizations.weight_norm(part),
    "spectral norm, hook": lambda part: nn.utils.spectral_norm(part),
    "weight norm, hook": lambda part: nn.utils.weight_norm(part),
}


def make(layout: str, **options) -> tuple[Mona, torch.Tensor, TokenLayout]:
    return make_mona(**options).eval(), make_tokens(LAYOUTS[layout]), LAYOUTS[layout]


@pytest.mark.parametrize("layout", ["patches", "extra tokens"])
@pytest.mark.parametrize("path", WEIGHTED)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_parametrised_parts(change, path, layout):
    """The formulas, which call every part, with the weights set far away meanwhile: a stale one would show."""
    mona, x, layout = make(layout)
    change(mona.get_submodule(path))
    with torch.no_grad():
        for parameter in mona.parameters():
            parameter.mul_(1.5)
    wanted = run(mona, x, lambda x: x + plain_delta(mona, x, layout))
    assert_equal(run(mona, x, lambda x: mona(x, layout)), wanted)
    assert_equal(run(mona, x, lambda x: mona.delta(x, layout) + x), wanted)


@pytest.mark.parametrize("options", [{}, {"variant": "v3"}], ids=str)
@pytest.mark.parametrize("kind", ["pre-hook", "hook", "backward pre-hook", "backward hook"])
def test_hooks_on_every_part_fire(kind, options):
    mona, x, layout = make("patches", **options)
    paths = [path for path in PARTS if not options or not path.startswith("norm")]
    fired: set[str] = set()
    register = {
        "pre-hook": nn.Module.register_forward_pre_hook,
        "hook": nn.Module.register_forward_hook,
        "backward pre-hook": nn.Module.register_full_backward_pre_hook,
        "backward hook": nn.Module.register_full_backward_hook,
    }[kind]
    for path in paths:
        handle = register(mona.get_submodule(path), lambda *args, path=path: fired.add(path))
        mona(x, layout).sum().backward()
        assert fired == {path}
        fired.clear()
        handle.remove()
    for path in paths:
        register(mona.get_submodule(path), lambda *args, path=path: fired.add(path))
    mona(x, layout).sum().backward()
    assert fired == set(paths)


def test_hooks_of_all_modules_fire():
    mona, x, layout = make("patches")
    seen: list[nn.Module] = []
    handle = nn.modules.module.register_module_forward_pre_hook(lambda module, args: seen.append(module))
    try:
        mona(x, layout)
    finally:
        handle.remove()
    assert {mona, *(mona.get_submodule(path) for path in PARTS)} <= set(seen)


def test_quantised_parts():
    mona = make_mona(torch.float32).eval()
    x, layout = make_tokens(LAYOUTS["prefix"], dtype=torch.float32).detach(), LAYOUTS["prefix"]
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(mona), {nn.Linear}, dtype=torch.qint8)
    with torch.no_grad():
        got, wanted, by_parts = quantised(x, layout), mona(x, layout), x + plain_delta(quantised, x, layout)
    assert not torch.equal(got, wanted)
    # Where a value lies between two of eight bits, rounding of the sums before decides.
    assert (got - by_parts).abs().max() < 0.02 * wanted.abs().max()


def adapted(name: str = "swin-classifier") -> nn.Module:
    tiny = TINY_MODELS[name]
    model = get_peft_model(tiny.build(), MonaConfig(bottleneck_dim=4, mona_dropout=0.0))
    randomise(model)
    return model


def monas(model: nn.Module) -> list[Mona]:
    return [module for module in model.modules() if isinstance(module, Mona)]


@pytest.mark.parametrize("name", ["swin-classifier", "vit-classifier"])
@pytest.mark.parametrize("kind", ["seen", "changed", "backward"])
def test_hooks_on_the_adapters_of_a_model(name, kind):
    """They see the residual stream before and after, and what they return is what the model goes on with."""
    model = adapted(name).eval()
    wanted = predict(model, images())
    with model.disable_adapter():
        base = predict(model, images())
    streams: list[tuple[torch.Size, torch.Size]] = []

    def hook(module, args, output):
        streams.append((args[0].shape, output.shape))
        return args[0] if kind == "changed" else None

    for mona in monas(model):
        if kind == "backward":
            mona.register_full_backward_hook(lambda module, *gradients: streams.append(gradients))
        else:
            mona.register_forward_hook(hook)
    if kind == "backward":
        model(pixel_values=images()).logits.sum().backward()
    got = predict(model, images())
    torch.testing.assert_close(got, base if kind == "changed" else wanted, rtol=1e-5, atol=1e-5)
    assert len(streams) == len(monas(model)) > 0
    assert kind == "backward" or all(before == after for before, after in streams)


def test_wrapped_adapters_of_a_model():
    model = adapted().eval()
    wanted = predict(model, images())
    calls: list[nn.Module] = []
    for module in list(model.modules()):
        if isinstance(module, nn.ModuleDict) and isinstance(module["default"], Mona):
            module["default"] = checkpoint_wrapper(module["default"])
            module["default"].register_forward_hook(lambda module, *args: calls.append(module))
    torch.testing.assert_close(predict(model, images()), wanted, rtol=1e-5, atol=1e-5)
    assert len(calls) == len(monas(model))


@pytest.mark.parametrize("name", ["swin-classifier", "vit-classifier"])
def test_offloaded_after_injection(name):
    """accelerate keeps the weights elsewhere and leaves meta tensors until a part is called."""
    model = adapted(name).eval()
    wanted = predict(model, images())
    cpu_offload(model, torch.device("cpu"))
    assert any(p.is_meta for mona in monas(model) for p in mona.parameters())
    torch.testing.assert_close(predict(model, images()), wanted, rtol=1e-5, atol=1e-5)
