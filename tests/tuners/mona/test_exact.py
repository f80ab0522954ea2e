"""Mona computes the same under every way of running a model."""

import copy
import threading

import pytest
import torch
from peft import get_peft_model, inject_adapter_in_model
from torch import nn

from mona_peft import Mona, MonaConfig, MonaLayer
from mona_peft.blocks.known import find_blocks
from mona_peft.blocks.layout import TokenLayout
from tests.support.models import (
    TINY_MODELS,
    features,
    feed_forward,
    images,
    predict,
    randomise,
    transformers_accepts_peft,
)

pytestmark = pytest.mark.filterwarnings("ignore")

SIZES = {"square": (32, 32), "wide": (32, 48), "padded": (36, 28)}


@pytest.fixture(params=list(TINY_MODELS))
def tiny(request):
    return TINY_MODELS[request.param]


def adapted(tiny, build=None, **options):
    base = tiny.build() if build is None else build
    model = get_peft_model(base, MonaConfig(**{"bottleneck_dim": 8, "mona_dropout": 0.0} | options)).eval()
    randomise(model)
    return model


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# --- the reference: blocks run in parts, in float64 ---------------------------------------------------------------


def compose_swin_block(block, x, grid, layer):
    """One Swin block written out, with its two adapters where the paper has them."""
    height, width = grid
    layout = TokenLayout(height, width)
    attended = swin_attention(block, x, grid)
    x1 = layer.mona_attention["default"](x + attended, layout)
    return layer.mona_mlp["default"](x1 + mlp_branch(block, x1), layout)


def mlp_branch(block, x1):
    """LayerNorm and MLP of a block, past the hook on its norm."""
    norm = block.layernorm_after
    return feed_forward(block, nn.functional.layer_norm(x1, norm.normalized_shape, norm.weight, norm.bias, norm.eps))


def swin_attention(block, x, grid):
    """The attention branch alone: the base block's forward less everything behind it, with the MLP silenced."""
    silent = copy.deepcopy(block)
    silent.__class__ = type(block)
    inputs = {}
    handle = silent.layernorm_after.register_forward_pre_hook(lambda m, a: inputs.update(x1=a[0]))
    silent._tap.adapters.clear()
    silent(x, grid)
    handle.remove()
    return inputs["x1"] - x


@pytest.mark.parametrize("size", list(SIZES))
def test_swin_blocks_agree_with_their_parts(size):
    model = adapted(TINY_MODELS["swin-classifier"]).double()
    height, width = (s // 2 for s in SIZES[size])
    for stage in model.base_model.model.swin.encoder.layers:
        for block in stage.blocks:
            x = torch.randn(2, height * width, block.layernorm_after.weight.shape[0], dtype=torch.float64)
            with torch.no_grad():
                output = block(x, (height, width))[0]
                expected = compose_swin_block(block, x, (height, width), block.mona)
            torch.testing.assert_close(output, expected, rtol=0, atol=1e-10)
            assert not torch.allclose(output, x)


def test_vit_blocks_agree_with_their_parts():
    """Written out with the class token as a 1x1 grid of its own."""
    model = adapted(TINY_MODELS["vit-classifier"]).double()
    vit = model.base_model.model.vit
    x = images().double()
    with torch.no_grad():
        states = model(pixel_values=x, output_hidden_states=True).hidden_states
        blocks = [vit.get_submodule(name) for name in find_blocks(vit)]
        for block, before, after in zip(blocks[:-1], states, states[1:], strict=False):
            attended = block.attention(block.layernorm_before(before))
            attended = attended[0] if isinstance(attended, tuple) else attended  # a tensor alone in older releases
            x1 = by_token(block.mona.mona_attention["default"], before + attended)
            expected = by_token(block.mona.mona_mlp["default"], x1 + mlp_branch(block, x1))
            torch.testing.assert_close(after, expected, rtol=0, atol=1e-10)


def by_token(mona, x):
    class_token = mona(x[:, :1], TokenLayout(1, 1))
    return torch.cat([class_token, mona(x[:, 1:], TokenLayout(8, 8))], dim=1)


# --- shapes, types, hidden states -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", list(SIZES))
def test_starts_as_the_base_model_at_every_size(tiny, size):
    x = images(2, *SIZES[size])
    base = tiny.build()
    before = predict(base, x, **dict(tiny.call))
    model = get_peft_model(base, MonaConfig()).eval()
    assert torch.equal(predict(model, x, **dict(tiny.call)), before)
    randomise(model)
    assert not torch.allclose(predict(model, x, **dict(tiny.call)), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_bases(tiny, dtype):
    x = images()
    reference = predict(adapted(tiny), x)
    base = tiny.build().to(dtype)
    before = predict(base, x.to(dtype))
    model = get_peft_model(base, MonaConfig(bottleneck_dim=8)).eval()
    assert torch.equal(predict(model, x.to(dtype)), before)
    assert {p.dtype for n, p in model.named_parameters() if "mona_" in n} == {torch.float32}
    randomise(model)
    output = predict(model, x.to(dtype))
    assert output.dtype == dtype
    error = (output.float() - reference).norm() / reference.norm()
    assert error < (0.03 if dtype == torch.bfloat16 else 0.005)
    features(model(pixel_values=x.to(dtype))).float().square().mean().backward()
    assert all(g.isfinite().all() and g.dtype == torch.float32 for g in gradients(model).values())


def test_adapter_in_the_type_of_the_base(tiny):
    model = get_peft_model(tiny.build().to(torch.bfloat16), MonaConfig(), autocast_adapter_dtype=False)
    assert {p.dtype for n, p in model.named_parameters() if "mona_" in n} == {torch.bfloat16}
    assert predict(model.eval(), images().to(torch.bfloat16)).dtype == torch.bfloat16


def test_autocast(tiny):
    model = adapted(tiny)
    reference = predict(model, images())
    with torch.autocast("cpu", torch.bfloat16):
        output = features(model(pixel_values=images()))
        output.float().square().mean().backward()
    assert (output.float() - reference).norm() / reference.norm() < 0.03
    assert all(g.dtype == torch.float32 for g in gradients(model).values())


@pytest.mark.parametrize("ran_before", [False, True])
@torch.no_grad()  # attention may take another kernel for weights that need gradients
def test_hidden_states_carry_every_adapter(tiny, ran_before):
    base = tiny.build()
    x = images()
    plain = base(pixel_values=x, output_hidden_states=True).hidden_states
    model = get_peft_model(base if ran_before else tiny.build(), MonaConfig(layers_to_transform=[-1])).eval()
    randomise(model)
    states = model(pixel_values=x, output_hidden_states=True).hidden_states
    assert len(states) == len(plain)
    changed = [not torch.equal(a, b) for a, b in zip(plain, states, strict=True)]
    assert changed == [False] * (len(states) - 1) + [True]
    # the last state must be what follows the last adapter: moving that adapter alone moves it
    layer = [m for m in model.modules() if isinstance(m, MonaLayer)][-1]
    nn.init.normal_(layer.mona_mlp["default"].up.bias)
    again = model(pixel_values=x, output_hidden_states=True).hidden_states
    assert not torch.allclose(again[-1], states[-1])


# --- gradient checkpointing ------------------------------------------------------------------------------------------


def checkpointing(model, reentrant):
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})


def two_sizes_loss(model, tiny):
    call = dict(tiny.call)
    first = features(model(pixel_values=images(2, 32, 32), **call))
    second = features(model(pixel_values=images(2, 48, 32, seed=2), **call))
    return first.square().mean() + second.square().mean()


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("api", ["peft", "transformers", "enabled-first"])
@pytest.mark.parametrize("layers", [None, [-1]])
def test_gradient_checkpointing_gives_the_same_gradients(tiny, reentrant, api, layers):
    torch.manual_seed(0)
    config = MonaConfig(bottleneck_dim=8, mona_dropout=0.0, layers_to_transform=layers)
    plain = get_peft_model(tiny.build(), config)
    randomise(plain)
    plain.train()
    two_sizes_loss(plain, tiny).backward()
    base = tiny.build()
    if api == "transformers" and not transformers_accepts_peft():
        with pytest.raises(ValueError, match="version of PEFT"):  # transformers' own error
            base.add_adapter(config)
        return
    if api == "transformers":
        base.add_adapter(config)
        checkpointing(base, reentrant)
        model = base
    elif api == "enabled-first":
        checkpointing(base, reentrant)
        model = get_peft_model(base, config)
    else:
        model = get_peft_model(base, config)
        checkpointing(model, reentrant)
    randomise(model)
    model.train()
    two_sizes_loss(model, tiny).backward()
    expected = {k.removeprefix("base_model.model."): v for k, v in gradients(plain).items()}
    actual = {k.removeprefix("base_model.model."): v for k, v in gradients(model).items()}
    assert actual.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(actual[key], expected[key], rtol=1e-4, atol=1e-6)


def test_checkpointing_recomputes_the_adapters(tiny):
    """The adapters' activations are not kept: they run once more in the backward pass."""
    model = adapted(tiny).train()
    calls = []
    mona = next(m for m in model.modules() if isinstance(m, Mona))
    mona.down.register_forward_hook(lambda *a: calls.append(1))
    checkpointing(model, False)
    loss = features(model(pixel_values=images())).sum()
    ran = len(calls)
    loss.backward()
    assert len(calls) > ran > 0


def test_gradients_accumulate_over_backward_passes(tiny):
    """No two gradients may share memory: the second pass, clipping and scaling write into them."""
    model = adapted(tiny)
    for _ in range(2):
        features(model(pixel_values=images())).square().mean().backward()
    twice = gradients(model)
    model.zero_grad()
    features(model(pixel_values=images())).square().mean().backward()
    once = gradients(model)
    for key in once:
        torch.testing.assert_close(twice[key], 2 * once[key], rtol=1e-5, atol=1e-8)
    addresses = [p.grad.untyped_storage().data_ptr() for p in model.parameters() if p.grad is not None]
    assert len(set(addresses)) == len(addresses)


# --- copies, threads, processes ------------------------------------------------------------------------------------


def test_threads_share_a_model_at_different_sizes(tiny):
    model = adapted(tiny)
    sizes = [(32, 32), (32, 48), (48, 32), (40, 40), (32, 64), (64, 32), (48, 48), (32, 40)]
    call = dict(tiny.call)
    fixed = [images(1, *size, seed=i) for i, size in enumerate(sizes)]
    # Swin clamps its own window sizes in place, for good, at the first small image
    predict(model, images(1, 32, 32), **call)
    expected = [predict(model, x, **call) for x in fixed]
    failures: list[str] = []
    barrier = threading.Barrier(len(sizes))

    def work(index):
        barrier.wait()
        for _ in range(10):
            output = predict(model, fixed[index], **call)
            if output.shape != expected[index].shape or not torch.allclose(output, expected[index], atol=1e-5):
                failures.append(f"thread {index}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(sizes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize("name", sorted(set(TINY_MODELS) - {"swin-backbone"}))
def test_pickling(name, tmp_path):
    """Not of a model that recorded hidden states: transformers' own hooks cannot be pickled (backbones have them)."""
    model = adapted(TINY_MODELS[name])
    torch.save(model, tmp_path / "model.pt")
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    assert torch.equal(predict(again, images()), predict(model, images()))


def test_forward_called_directly(tiny):
    """Some code calls `forward` of the blocks past `__call__`."""
    model = adapted(tiny)
    expected = predict(model, images())
    block = next(m for m in model.modules() if hasattr(m, "_tap"))
    seen = []
    handle = block.register_forward_pre_hook(lambda m, a, k: seen.append((a, dict(k))), with_kwargs=True)
    outputs = []
    block.register_forward_hook(lambda m, a, o: outputs.append(o))
    predict(model, images())
    handle.remove()
    args, kwargs = seen[0]
    kwargs.pop("tap_layout")
    with torch.no_grad():
        direct = block.forward(*args, **kwargs)
    first = direct[0] if isinstance(direct, tuple) else direct
    recorded = outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0]
    assert torch.equal(first, recorded)
    assert torch.equal(predict(model, images()), expected)


def test_accelerate_hooks_before_and_after(tiny):
    """accelerate replaces `forward` on the instance (device maps); the adapters act all the same."""
    from accelerate.hooks import ModelHook, add_hook_to_module

    expected = predict(adapted(tiny), images())
    before = tiny.build()
    for module in list(before.modules()):
        if type(module).__name__ in ("SwinLayer", "ViTLayer"):
            add_hook_to_module(module, ModelHook())
    hooked_first = adapted(tiny, build=before)
    torch.testing.assert_close(predict(hooked_first, images()), expected, rtol=0, atol=0)
    hooked_later = adapted(tiny)
    for module in list(hooked_later.modules()):
        if hasattr(module, "_tap"):
            add_hook_to_module(module, ModelHook())
    torch.testing.assert_close(predict(hooked_later, images()), expected, rtol=0, atol=0)
    assert torch.equal(predict(hooked_later.unload(), images()), predict(tiny.build(), images()))


def test_injected_on_the_meta_device_then_filled(tiny):
    with torch.device("meta"):
        base = tiny.cls(tiny.config())
    model = inject_adapter_in_model(MonaConfig(bottleneck_dim=8), base)
    assert all(p.is_meta for p in model.parameters())


def test_adapter_follows_the_model_to_another_type(tiny):
    model = adapted(tiny).double()
    assert predict(model, images().double()).dtype == torch.float64
    model.add_adapter("later", MonaConfig(bottleneck_dim=4))
    assert {p.dtype for n, p in model.named_parameters() if ".later." in n} == {torch.float64}
