"""Mona as one operator: what compiled training and fake tensors see of it."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import get_peft_model
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import SwinConfig, SwinForImageClassification

from mona_peft import Mona, MonaConfig
from mona_peft.blocks.layout import TokenLayout
from mona_peft.finetuning.costs.memory import saved_bytes
from mona_peft.tuners.mona import operator
from mona_peft.tuners.mona.weights import Parameters

pytestmark = pytest.mark.filterwarnings("ignore")

LAYOUT = TokenLayout(4, 3, 1)
OPERATOR = "mona_peft.mona"
#: Compiles as PyTorch's own compiler does, up to the code it would generate: partitioned, with saved tensors chosen.
BACKEND = "aot_eager_decomp_partition"


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


def make_mona(**options) -> Mona:
    mona = Mona(24, **{"bottleneck_dim": 8, "dropout": 0.0, "init_weights": False} | options)
    with torch.no_grad():
        mona.norm.norm_scale.fill_(0.7)
    return mona


def saved(call) -> tuple[int, torch.Tensor]:
    """Bytes that a forward pass keeps, each storage once, and its result."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()
    return sum(t.untyped_storage().nbytes() for t in kept.values()), result


def graphs(function, *inputs, grad=True) -> str:
    """What the compiler is given, as text."""
    seen = []

    def backend(module, example_inputs):
        seen.append(str(module.graph))
        return module

    with torch.set_grad_enabled(grad):
        torch.compile(function, fullgraph=True, backend=backend)(*inputs)
    return "\n".join(seen)


def test_the_schema_is_that_of_the_annotations():
    """The newest releases read it from them."""
    function = operator.backward_operator._init_fn
    assert torch.library.infer_schema(function, mutates_args=()) == operator.BACKWARD_SCHEMA


@pytest.mark.parametrize(
    "options",
    [{}, {"conv_bias": False, "scale": "scalar"}, {"output_scale": "stream"}],
    ids=["official", "paper", "in proportion to the stream"],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_compiled_training_equals_eager(options, dtype):
    """With all that a block may ask for: a delta that comes in, the new stream and the own delta."""
    mona = make_mona(**options).to(dtype)
    other = copy.deepcopy(mona)
    x, more = torch.randn(2, 3, 13, 24).to(dtype).unbind()
    results = []
    for module, wrap in ((mona, lambda f: f), (other, lambda f: torch.compile(f, fullgraph=True, backend=BACKEND))):
        leaf = x.clone().requires_grad_()

        def function(leaf, module=module):
            return module.stream(leaf, LAYOUT, more * leaf, split=True)

        out, delta = wrap(function)(leaf)
        (out.float().square().sum() + delta.float().sin().sum()).backward()
        results.append([out, delta, leaf.grad, *(p.grad for p in module.parameters())])
    tolerance = 1e-11 if dtype == torch.float64 else 0.03
    for got, wanted in zip(*results, strict=True):
        assert got.dtype == wanted.dtype and (got - wanted).abs().max() <= tolerance * wanted.abs().max()


@pytest.mark.parametrize("backend", [BACKEND, pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_training_drops_what_eager_training_drops(backend):
    """From the same seed on a CPU; each call drops other elements, so the compiler must not make two of them one."""
    mona, x = make_mona(dropout=0.3), torch.randn(2, 13, 24)

    def twice(x):
        return torch.stack([mona(x, LAYOUT), mona(x, LAYOUT)])

    torch._dynamo.reset()
    torch.manual_seed(5)
    wanted = twice(x)
    torch.manual_seed(5)
    got = torch.compile(twice, fullgraph=True, backend=backend)(x)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    assert (wanted[0] - wanted[1]).abs().max() > 0.01


def test_compiled_training_keeps_no_more_than_eager():
    """Three adapters with norms between: the plain operations would keep several times as much."""
    layers = nn.ModuleList([nn.ModuleList([make_mona(dropout=0.1), nn.LayerNorm(24)]) for _ in range(3)])
    plain = copy.deepcopy(layers)
    for mona, _ in plain:
        mona.fast_path = False
    x = torch.randn(16, 13, 24, requires_grad=True)

    def run(x, layers):
        for mona, norm in layers:
            x = norm(mona(x, LAYOUT))
        return x.sin().sum()

    eager, _ = saved(lambda: run(x, layers))
    compiled, loss = saved(lambda: torch.compile(run, fullgraph=True, backend=BACKEND)(x, layers))
    loss.backward()
    assert layers[0][0].up.weight.grad.abs().sum() > 0
    torch._dynamo.reset()
    without, _ = saved(lambda: torch.compile(run, fullgraph=True, backend=BACKEND)(x, plain))
    assert compiled <= 1.05 * eager and compiled < 0.75 * without


def test_autocast_is_seen_when_compiled():
    mona, x = make_mona(), torch.randn(2, 13, 24)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = mona(x, LAYOUT)
        got = torch.compile(lambda x: mona(x, LAYOUT), fullgraph=True, backend=BACKEND)(x)
    exact = mona(x, LAYOUT)
    assert got.dtype == exact.dtype and 0 < (got - exact).abs().max() < 0.05 * exact.abs().max()
    assert torch.equal(got, wanted)


def test_training_sees_the_operator_and_inference_plain_operations():
    mona, x = make_mona(), torch.randn(2, 13, 24, requires_grad=True)
    assert OPERATOR in graphs(lambda x: mona(x, LAYOUT), x)
    torch._dynamo.reset()
    assert OPERATOR not in graphs(lambda x: mona(x, LAYOUT), x.detach(), grad=False)


def test_exporters_see_plain_operations():
    class Adapter(nn.Module):
        def __init__(self):
            super().__init__()
            self.mona = make_mona()

        def forward(self, x):
            return self.mona(x, LAYOUT)

    program = torch.export.export(Adapter(), (torch.randn(2, 13, 24),))
    assert "mona_peft" not in str(program.graph) and "conv2d" in str(program.graph)


def test_hooked_parts_are_called_when_compiled():
    mona, x = make_mona(), torch.randn(2, 13, 24, requires_grad=True)
    mona.down.register_forward_hook(lambda module, args, output: output * 1.0)
    assert OPERATOR not in graphs(lambda x: mona(x, LAYOUT), x)


def test_fake_tensors_keep_what_true_ones_keep():
    mona, x = make_mona(dropout=0.1), torch.randn(4, 13, 24, requires_grad=True)
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    def count(mona, x):
        kept.clear()
        own = {p.untyped_storage()._cdata for p in mona.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = mona(x, LAYOUT)
        return out, sum(size for key, size in kept.items() if key not in own)

    _, true = count(mona, x)
    with torch.device("meta"):
        empty = make_mona(dropout=0.1)
    with FakeTensorMode(allow_non_fake_inputs=True):
        out, fake = count(empty.to_empty(device="cpu"), torch.empty(4, 13, 24, requires_grad=True))
        out.sum().backward()
    made = 4 * sum(t.numel() for t in Parameters.of(make_mona()).fuse(torch.float32).made())
    assert fake <= true <= fake + made


@pytest.mark.parametrize("bias", [True, False])
def test_the_operator_is_well_formed(bias):
    """PyTorch's own checks: schema, fake results, autograd."""
    mona = make_mona(conv_bias=bias)
    parameters = [p for p in Parameters.of(mona).flat() if p is not None]
    x, extra = (torch.randn(2, 13, 24, requires_grad=True) for _ in range(2))
    dropped = torch.zeros(2, 13, 8, dtype=torch.uint8)
    arguments = (x, extra, dropped, parameters, list(LAYOUT), 1e-5, 1.0, True, True, torch.float32)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(operator.mona_operator, arguments, test_utils=checks)


@pytest.mark.slow
def test_a_compiled_swin_keeps_little_more_than_its_floor():
    """At most 1.15 of what the frozen backbone keeps, at the widths of Swin-L, without a graph break."""
    config = SwinConfig(image_size=56, embed_dim=192, depths=[1, 1], num_heads=[6, 12], window_size=7, num_labels=4)
    images, kept = torch.randn(8, 3, 56, 56), {}
    for name in ("floor", "mona"):
        model: nn.Module = SwinForImageClassification(config)
        if name == "floor":
            model.requires_grad_(False)
            model.swin.embeddings.patch_embeddings.projection.bias.requires_grad_()
        else:
            model = get_peft_model(model, MonaConfig())
        torch._dynamo.reset()
        compiled = torch.compile(model.train(), fullgraph=True, backend=BACKEND)

        def loss(compiled=compiled):
            return compiled(pixel_values=images).logits.square().sum()

        kept[name] = saved_bytes(loss, model)
        loss().backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert 0 < kept["mona"] <= 1.15 * kept["floor"]
