"""Convolutional bypasses stand where the paper has them, and act as it says."""

import threading

import pytest
import torch
from peft import get_peft_model, inject_adapter_in_model
from torch.nn import functional as F

from mona_peft import AdaptFormerConfig, BlockSpec, ConvpassConfig, MonaConfig
from mona_peft.blocks.layout import TokenLayout
from mona_peft.tuners.convpass import Convpass
from tests.support.models import TINY_MODELS, features, images, predict, randomise
from tests.tuners.plain_blocks import plain_norm, run_swin, run_vit

pytestmark = pytest.mark.filterwarnings("ignore")

RUNNERS = {"swin-model": run_swin, "vit-model": run_vit}


def adapt(name, **options):
    model = get_peft_model(TINY_MODELS[name].build(), ConvpassConfig(**options)).eval()
    randomise(model, ".convpass_")
    return model


def quick_gelu(x):
    return x / (1 + torch.exp(-1.702 * x))


def bypass(adapter, x, grid):
    """The paper's formula on `(B, N, m)`: tokens in front of the grid are images of one pixel."""
    z = quick_gelu(x @ adapter.down.weight.T + adapter.down.bias)
    extra = z.shape[1] - grid[0] * grid[1]
    parts = [z[:, i : i + 1].mT.unflatten(2, (1, 1)) for i in range(extra)] + [z[:, extra:].mT.unflatten(2, grid)]
    parts = [F.conv2d(F.pad(part, (1, 1, 1, 1)), adapter.conv.weight, adapter.conv.bias) for part in parts]
    z = quick_gelu(torch.cat([part.flatten(2).mT for part in parts], dim=1))
    return z @ adapter.up.weight.T + adapter.up.bias


@pytest.mark.parametrize("name", list(RUNNERS))
@pytest.mark.parametrize("positions", [("attention", "mlp"), ("attention",), ("mlp",)], ids="-".join)
def test_bypasses_read_what_their_branches_read(name, positions):
    model = adapt(name, bottleneck_dim=6, convpass_scale=0.5, positions=positions).double()
    inner = model.base_model.model
    grids = {}

    def beside(block, position, normed, grid):
        adapters = getattr(block.convpass, f"convpass_{position}")
        return 0.5 * bypass(adapters["default"], normed, grid) if position in positions else 0.0

    def beside_attention(block, normed, grid):
        grids[block] = grid
        return beside(block, "attention", normed, grid)

    expected = RUNNERS[name](
        inner,
        images().double(),
        beside_attention=beside_attention,
        mlp_output=lambda block, h, x1: h + beside(block, "mlp", plain_norm(block.layernorm_after, x1), grids[block]),
    )
    torch.testing.assert_close(predict(model, images().double()), expected, rtol=1e-12, atol=1e-12)


def test_it_starts_as_the_authors_do():
    adapter = Convpass(16)
    assert [tuple(p.shape) for p in adapter.parameters()] == [(8, 16), (8,), (8, 8, 3, 3), (8,), (16, 8), (16,)]
    assert not any(t.any() for t in (adapter.down.bias, adapter.conv.bias, adapter.up.weight, adapter.up.bias))
    bound = (6 / (16 + 8)) ** 0.5
    assert 0.8 * bound < adapter.down.weight.abs().max() <= bound  # Xavier uniform
    z = torch.randn(2, 8, 5, 7)
    assert torch.equal(adapter.conv(z), z)
    torch.nn.init.normal_(adapter.up.weight)
    x = torch.randn(2, 35, 16)
    expected = quick_gelu(quick_gelu(adapter.down(x))) @ adapter.up.weight.T
    torch.testing.assert_close(adapter.eval().delta(x, TokenLayout(5, 7)), expected)


def test_the_filters_do_not_reach_across_the_grid():
    adapter = Convpass(4, 3, init_weights=False).double().eval()
    layout = TokenLayout(3, 5, prefix=2, suffix=1)
    x = torch.randn(1, 18, 4, dtype=torch.float64)
    before = adapter.delta(x, layout)
    x[:, 2 + 7] += 1.0  # row 1, column 2
    changed = (adapter.delta(x, layout) != before).any(-1)[0].nonzero().flatten().tolist()
    assert changed == [2 + 5 * row + column for row in (0, 1, 2) for column in (1, 2, 3)]
    before = adapter.delta(x, layout)
    x[:, 1] += 1.0
    assert (adapter.delta(x, layout) != before).any(-1)[0].nonzero().flatten().tolist() == [1]


@pytest.mark.parametrize("name", ["swin-model", "vit-model"])
def test_threads_share_a_model_at_different_sizes(name):
    model, call = adapt(name, bottleneck_dim=4), dict(TINY_MODELS[name].call)
    predict(model, images(1, 32, 32), **call)  # Swin clamps its windows for good at the first small image
    inputs = [images(1, *size, seed=i) for i, size in enumerate([(32, 32), (32, 48), (48, 32), (64, 32)])]
    expected = [predict(model, x, **call) for x in inputs]
    barrier, failures = threading.Barrier(len(inputs)), []

    def work(index):
        barrier.wait()
        for _ in range(10):
            output = predict(model, inputs[index], **call)
            if output.shape != expected[index].shape or not torch.allclose(output, expected[index], atol=1e-5):
                failures.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_rows_of_a_batch_use_the_adapter_named_for_them():
    model = adapt("vit-model", bottleneck_dim=4)
    model.add_adapter("other", ConvpassConfig(bottleneck_dim=2, positions="mlp"))
    randomise(model, ".other.", seed=5)
    model.eval()
    x = images(3)
    with torch.no_grad():
        output = model(pixel_values=x, adapter_names=["other", "__base__", "default"]).last_hidden_state
    model.set_adapter("other")
    torch.testing.assert_close(output[:1], predict(model.eval(), x[:1]), rtol=1e-5, atol=1e-5)
    model.set_adapter("default")
    torch.testing.assert_close(output[2:], predict(model.eval(), x[2:]), rtol=1e-5, atol=1e-5)
    with model.disable_adapter():
        torch.testing.assert_close(output[1:2], predict(model, x[1:2]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", list(RUNNERS))
def test_pickling(name, tmp_path):
    model = adapt(name, bottleneck_dim=4)
    torch.save(model, tmp_path / "model.pt")
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    assert torch.equal(predict(again, images()), predict(model, images()))
    randomise(again, ".convpass_", seed=8)
    assert not torch.allclose(predict(again, images()), predict(model, images()))


@pytest.mark.parametrize("first", [True, False])
def test_beside_other_tuners_of_the_same_blocks(first):
    """What each adds to the stream after attention is computed apart, whichever came first."""
    configs = [ConvpassConfig(bottleneck_dim=4), MonaConfig(bottleneck_dim=4, positions="attention")]
    model = TINY_MODELS["vit-model"].build().double()
    for config in configs if first else configs[::-1]:
        inject_adapter_in_model(config, model)
    for marker in (".convpass_", ".mona_"):
        randomise(model.double(), marker)

    x, grid = model.embeddings(images().double()), (8, 8)
    for block in model.layers:
        bypasses, mona = block.convpass, block.mona.mona_attention["default"]
        normed = plain_norm(block.layernorm_before, x)
        attended = x + block.attention(normed)[0]
        x1 = attended + mona.delta(attended, TokenLayout(*grid, 1))
        x1 = x1 + bypass(bypasses.convpass_attention["default"], normed, grid)
        normed = plain_norm(block.layernorm_after, x1)
        x = x1 + block.mlp(normed) + bypass(bypasses.convpass_mlp["default"], normed, grid)
    torch.testing.assert_close(predict(model, images().double()), model.layernorm(x), rtol=1e-12, atol=1e-12)


def count_hooks(model):
    return sum(len(module._forward_hooks) for name, module in model.named_modules() if "norm" in name)


def test_norms_are_watched_only_as_long_as_they_are_read():
    model = TINY_MODELS["vit-model"].build()
    bypasses = get_peft_model(model, ConvpassConfig(bottleneck_dim=2))
    assert count_hooks(model) == 2 * 3
    others = get_peft_model(model, AdaptFormerConfig(bottleneck_dim=2))
    assert bypasses.unload() is model and count_hooks(model) == 0
    randomise(model, ".adaptformer_")
    adapted = predict(model, images())
    others.unload()
    assert not torch.allclose(adapted, predict(model, images()))


def test_a_norm_that_is_called_twice_or_never_is_an_error():
    model = adapt("vit-model", bottleneck_dim=2)
    block = next(module for module in model.modules() if hasattr(module, "layernorm_before"))
    block.attention.register_forward_pre_hook(lambda _, args: block.layernorm_before(*args[:1]) and None)
    with pytest.raises(RuntimeError, match="called its 'layernorm_before' more than once"):
        predict(model, images())
    model = TINY_MODELS["vit-model"].build()
    spec = BlockSpec("ViTLayer", "layernorm_after", prefix_tokens=1, norm="spare")
    for block in model.layers if hasattr(model, "layers") else model.encoder.layer:
        block.spare = torch.nn.LayerNorm(32)
    with pytest.raises(RuntimeError, match="ran without calling its 'spare'"):
        predict(get_peft_model(model, ConvpassConfig(block_specs=[spec])).eval(), images())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (BlockSpec("ViTLayer", "mlp", prefix_tokens=1), "starts with 'mlp', and no norm is known"),
        (
            BlockSpec("ViTLayer", "layernorm_after", prefix_tokens=1, norm="norm0"),
            "no module 'norm0' is known to",
        ),
    ],
)
def test_blocks_without_norms_before_their_branches_are_refused_and_left_alone(spec, message):
    model = TINY_MODELS["vit-model"].build()
    before = {name: (type(module), sorted(vars(module))) for name, module in model.named_modules()}
    with pytest.raises(ValueError, match=message):
        get_peft_model(model, ConvpassConfig(block_specs=[spec]))
    assert {name: (type(module), sorted(vars(module))) for name, module in model.named_modules()} == before
    if spec.entry == "mlp":  # the refusal is of what it would read, not of the block
        get_peft_model(model, MonaConfig(block_specs=[spec]))


def test_dropout_acts_in_training_only():
    model = adapt("vit-model", convpass_dropout=0.5)
    assert torch.equal(predict(model.eval(), images()), predict(model, images()))
    assert not torch.allclose(predict(model.train(), images()), predict(model, images()))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bottleneck_dim": 0}, "bottleneck_dim=0"),
        ({"convpass_dropout": 1.0}, "convpass_dropout=1.0"),
        ({"convpass_scale": True}, "convpass_scale=True"),
        ({"positions": ("mlp", "mlp")}, "positions="),
        ({"init_weights": "official"}, "init_weights='official'"),
    ],
)
def test_bad_settings_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        ConvpassConfig(**values)


def test_models_without_known_blocks_are_refused():
    with pytest.raises(ValueError, match="no block that can be adapted"):
        get_peft_model(torch.nn.Sequential(torch.nn.Linear(4, 4)), ConvpassConfig())


def test_gradients_of_forwards_of_two_sizes_under_checkpointing():
    gradients = []
    for checkpointing in (False, True):
        model = adapt("swin-classifier", bottleneck_dim=4, convpass_dropout=0.0)
        if checkpointing:
            model.base_model.model.gradient_checkpointing_enable({"use_reentrant": False})
        predict(model, images(1, 32, 32))
        model.train()
        outputs = [features(model(pixel_values=images(2, *size))) for size in ((32, 48), (48, 32))]
        sum(output.square().sum() for output in outputs).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and any("convpass_" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 13, 8), (0, 3, 4, 8)], ids=str)
def test_an_empty_batch_stays_one(shape):
    adapter = Convpass(8, bottleneck_dim=2)
    assert adapter(torch.zeros(shape), TokenLayout(3, 4, 1 if len(shape) == 3 else 0)).shape == shape
