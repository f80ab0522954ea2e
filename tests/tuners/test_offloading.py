"""Models that accelerate keeps elsewhere, and models quantised afterwards: as they were, with every tuner."""

from __future__ import annotations

import copy

import accelerate
import pytest
import torch
from peft import get_peft_model

from tests.support.models import TINY_MODELS, images, predict, randomise
from tests.tuners.test_other_tuners_lifecycle import CASES

pytestmark = pytest.mark.filterwarnings("ignore")

MODELS = ("swin-classifier", pytest.param("vit-model", marks=pytest.mark.slow))


def cpu_offload(model, folder):
    return accelerate.cpu_offload(model, execution_device="cpu")


def cpu_offload_with_buffers(model, folder):
    return accelerate.cpu_offload(model, execution_device="cpu", offload_buffers=True)


def disk_offload(model, folder):
    return accelerate.disk_offload(model, folder, execution_device="cpu")


def dispatch(model, folder):
    places = {name: "disk" if i % 2 else "cpu" for i, (name, _) in enumerate(model.named_children())}
    return accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=folder, force_hooks=True)


WAYS = [
    cpu_offload,
    dispatch,
    *(pytest.param(w, marks=pytest.mark.slow) for w in (cpu_offload_with_buffers, disk_offload)),
]
by_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


@by_way
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", CASES)
def test_offloaded_after_injection(method, name, way, tmp_path):
    case, tiny = CASES[method], TINY_MODELS[name]
    model = case.adapted(tiny)
    expected = predict(model, images())
    way(model.base_model.model, str(tmp_path))
    assert any(p.is_meta for p in model.parameters())
    for _ in range(2):
        torch.testing.assert_close(predict(model, images()), expected, rtol=1e-6, atol=1e-6)


@by_way
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", CASES)
def test_offloaded_before_injection(method, name, way, tmp_path):
    case, tiny = CASES[method], TINY_MODELS[name]
    expected = predict(case.adapted(tiny, modules_to_save=None), images())
    base = tiny.build()
    way(base, str(tmp_path))
    model = case.calibrate(get_peft_model(base, case.make(tiny, modules_to_save=None)).eval())
    adapters = [p for n, p in model.named_parameters() if f".{case.prefix}" in n]
    assert adapters and not any(p.is_meta for p in adapters)
    torch.manual_seed(0)
    if case.starts_as_base:
        torch.testing.assert_close(predict(model, images()), predict(tiny.build(), images()), rtol=1e-6, atol=1e-6)
        randomise(model, f".{case.prefix}")
        torch.testing.assert_close(predict(model, images()), expected, rtol=1e-5, atol=1e-5)
    else:
        reference = case.adapted(tiny, modules_to_save=None)
        state = {n: p.detach() for n, p in reference.named_parameters() if f".{case.prefix}" in n}
        model.load_state_dict(state, strict=False)
        torch.testing.assert_close(predict(model, images()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["bottleneck", "adaptformer", "convpass", "lorand", "ssf", "vpt", "sct"])
def test_quantised_dynamically(method):
    case, tiny = CASES[method], TINY_MODELS["vit-model"]
    model = case.adapted(tiny)
    expected = predict(model, images())
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {torch.nn.Linear}, dtype=torch.qint8)
    output = predict(quantised, images())
    assert not torch.equal(output, expected)
    assert (output - expected).abs().max() < 0.05 * expected.abs().max()  # weights and activations of 8 bits


@pytest.mark.parametrize("method", ["bottleneck", "lorand", "adaptformer"])
def test_quantised_dynamically_before(method):
    case, tiny = CASES[method], TINY_MODELS["vit-model"]
    base = torch.ao.quantization.quantize_dynamic(tiny.build(), {torch.nn.Linear}, dtype=torch.qint8)
    before = predict(base, images())
    model = get_peft_model(base, case.make(tiny)).eval()
    assert torch.equal(predict(model, images()), before)
    randomise(model, f".{case.prefix}")
    assert not torch.allclose(predict(model, images()), before, atol=1e-3)
