"""Mona under torch.compile, torch.export, ONNX and DistributedDataParallel."""

import os
import socket

import onnxruntime
import pytest
import torch
import torch.multiprocessing as mp
from peft import get_peft_model
from torch.nn.parallel import DistributedDataParallel

from mona_peft import MonaConfig
from tests.support.models import TINY_MODELS, features, images, predict, randomise

pytestmark = pytest.mark.filterwarnings("ignore")

NAMES = ["swin-classifier", "vit-classifier"]


def adapted(name, **options):
    model = get_peft_model(TINY_MODELS[name].build(), MonaConfig(bottleneck_dim=8, mona_dropout=0.0, **options))
    randomise(model)
    return model.eval()


def loss_gradients(model, run):
    model.zero_grad()
    features(run(pixel_values=images())).square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_compiles_without_a_graph_break(name):
    """For inference and for training, and again after the adapters were switched off."""
    model = adapted(name)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(predict(compiled, images()), predict(model, images()), rtol=1e-4, atol=1e-5)
    model.train()
    expected = loss_gradients(model, model)
    actual = loss_gradients(model, compiled)
    assert actual.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(actual[key], expected[key], rtol=1e-3, atol=1e-6)
    model.eval()
    with model.disable_adapter():
        base = predict(model, images())
        torch.testing.assert_close(predict(compiled, images()), base, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_traces_without_a_graph_break(name):
    """The same with dynamo alone, without the code generation that takes the time."""
    model = adapted(name)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(predict(compiled, images()), predict(model, images()), rtol=1e-5, atol=1e-6)
    model.train()
    expected, actual = loss_gradients(model, model), loss_gradients(model, compiled)
    for key in expected:
        torch.testing.assert_close(actual[key], expected[key], rtol=1e-4, atol=1e-7)
    assert torch.equal(predict(model.eval(), images()), predict(model, images())), "eager still works afterwards"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_traces_two_image_sizes(name):
    model = adapted(name)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=False)
    call = dict(TINY_MODELS[name].call)
    for size in ((32, 32), (32, 48), (32, 32)):
        x = images(2, *size)
        torch.testing.assert_close(predict(compiled, x, **call), predict(model, x, **call), rtol=1e-5, atol=1e-6)


class Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        return self.model(pixel_values=pixel_values).logits


@pytest.mark.parametrize("name", NAMES)
def test_exports(name):
    model = Logits(adapted(name))
    program = torch.export.export(model, (images(),))
    torch.testing.assert_close(program.module()(images(seed=4)), model(images(seed=4)), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        assert not torch.allclose(program.module()(images(seed=4)), program.module()(images(seed=5)))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_onnx(name, tmp_path):
    model = Logits(adapted(name)).eval()
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (images(),), path, dynamo=True, external_data=False, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = images(seed=4)
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        expected = model(x)
    torch.testing.assert_close(torch.from_numpy(output), expected, rtol=1e-4, atol=1e-5)


def _distributed_step(rank, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    model = adapted("vit-classifier", modules_to_save=["classifier"])
    parallel = DistributedDataParallel(model)
    features(parallel(pixel_values=images(4)[rank::2])).square().mean().backward()
    torch.save({n: p.grad for n, p in model.named_parameters() if p.grad is not None}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_distributed_data_parallel_step(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_distributed_step, args=(port, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    model = adapted("vit-classifier", modules_to_save=["classifier"])
    features(model(pixel_values=images(4))).square().mean().backward()
    expected = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert first.keys() == second.keys() == expected.keys()
    for key in expected:
        assert torch.equal(first[key], second[key])
        torch.testing.assert_close(first[key], expected[key], rtol=1e-4, atol=1e-6)
