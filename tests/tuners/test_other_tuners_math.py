"""The tuners that Mona is compared with agree with independent compositions, in float64."""

import json

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from timm.layers import LayerNorm2d

from mona_peft import AdaptFormerConfig, BlockSpec, BottleneckConfig, LoRandConfig, SSFConfig, VPTConfig
from mona_peft.tuners.ssf import SSFLayer
from tests.support.models import TINY_MODELS, images, predict, randomise
from tests.tuners.plain_blocks import run_swin, run_vit

pytestmark = pytest.mark.filterwarnings("ignore")

RUNNERS = {"swin-model": run_swin, "vit-model": run_vit}


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def linear(layer, x):
    return torch.einsum("oi,bni->bno", layer.weight, x) + layer.bias


def bottleneck(adapter, x, activation=gelu):
    return linear(adapter.up, activation(linear(adapter.down, x)))


def relu(x):
    return (x + x.abs()) / 2


def lorand(adapter, x):
    down = sum(p @ k @ q for p, k, q in zip(adapter.down_left, adapter.kernel, adapter.down_right, strict=True))
    up = sum(p @ k @ q for p, k, q in zip(adapter.up_left, adapter.kernel, adapter.up_right, strict=True))
    return gelu(x @ down) @ up


def double(config, name):
    model = get_peft_model(TINY_MODELS[name].build().double(), config).double().eval()
    randomise(model, f".{config.method}_")
    return model


@pytest.mark.parametrize("name", list(RUNNERS))
@pytest.mark.parametrize(
    ("config", "formula", "attribute"),
    [
        (BottleneckConfig(bottleneck_dim=8), bottleneck, "bottleneck_adapter"),
        (LoRandConfig(lorand_alpha=3, lorand_beta=4), lorand, "lorand_adapter"),
    ],
    ids=["bottleneck", "lorand"],
)
def test_outputs_are_adapted_before_the_residual_addition(name, config, formula, attribute):
    model = double(config, name)

    def adapted(layer, output):
        return output + formula(getattr(layer, attribute)["default"], output)

    expected = RUNNERS[name](
        model.base_model.model,
        images().double(),
        attention_output=lambda block, h: adapted(block.attention.o_proj, h),
        mlp_output=lambda block, h, x1: adapted(block.mlp.fc2, h),
    )
    torch.testing.assert_close(predict(model, images().double()), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", list(RUNNERS))
@pytest.mark.parametrize(("options", "activation"), [({}, relu), ({"adaptformer_activation": "gelu"}, gelu)])
def test_adaptformer_stands_beside_the_mlp(name, options, activation):
    model = double(AdaptFormerConfig(bottleneck_dim=8, **options), name)

    def added(block, x1):
        return 0.1 * bottleneck(block.adaptformer.adaptformer_mlp["default"], x1, activation)

    expected = RUNNERS[name](
        model.base_model.model,
        images().double(),
        attention_output=lambda block, h: h,
        mlp_output=lambda block, h, x1: h + added(block, x1),
    )
    torch.testing.assert_close(predict(model, images().double()), expected, rtol=1e-12, atol=1e-12)


def test_an_adaptformer_file_without_an_activation_keeps_the_one_it_was_trained_with(tmp_path):
    model = get_peft_model(TINY_MODELS["vit-model"].build(), AdaptFormerConfig(adaptformer_activation="gelu"))
    randomise(model, ".adaptformer_")
    model.eval().save_pretrained(tmp_path)
    assert PeftConfig.from_pretrained(tmp_path).adaptformer_activation == "gelu"
    path = tmp_path / "adapter_config.json"
    entries = json.loads(path.read_text())
    del entries["adaptformer_activation"]
    path.write_text(json.dumps(entries))
    old = PeftModel.from_pretrained(TINY_MODELS["vit-model"].build(), tmp_path).eval()
    torch.testing.assert_close(predict(old, images()), predict(model, images()), rtol=1e-6, atol=1e-6)
    assert PeftConfig.from_pretrained(tmp_path).adaptformer_activation == "gelu"
    assert AdaptFormerConfig().adaptformer_activation == "relu"
    AdaptFormerConfig().save_pretrained(tmp_path)
    assert PeftConfig.from_pretrained(tmp_path).adaptformer_activation == "relu"


@pytest.mark.parametrize("bound_of", [("swin-model", 2, 16), ("vit-model", 4, 32)], ids=lambda case: case[0])
def test_prompts_start_within_the_bound_of_the_first_stage(bound_of):
    name, patch, width = bound_of
    bound = (6 / (3 * patch * patch + width)) ** 0.5
    model = get_peft_model(TINY_MODELS[name].build(), VPTConfig(vpt_tokens=200))
    for key, prompts in model.named_parameters():
        if ".vpt_" in key:
            assert 0.98 * bound < prompts.abs().max() <= bound


@pytest.mark.parametrize("name", ["swin-model", "vit-model"])
def test_the_dropout_of_prompts_is_that_of_an_image(name):
    """Images of a batch have masks of their own; the windows of an image share theirs."""
    model = get_peft_model(TINY_MODELS[name].build(), VPTConfig(vpt_tokens=3, vpt_dropout=0.5)).train()
    seen = []
    for module in model.modules():
        if hasattr(module, "vpt_prompts"):
            module.base_layer.register_forward_pre_hook(lambda m, args: seen.append(args[0][:, :3]))
    predict(model, images(4))
    assert len(seen) == TINY_MODELS[name].blocks
    for prompts in seen:
        by_image = prompts.unflatten(0, (4, -1))
        assert torch.equal(by_image, by_image[:, :1].expand_as(by_image))
        assert len({tuple(row.flatten().tolist()) for row in by_image[:, 0]}) == 4


@pytest.mark.parametrize("name", ["swin-model", "vit-classifier"])
def test_ssf_is_the_model_with_scales_and_shifts_in_its_weights(name):
    model = get_peft_model(TINY_MODELS[name].build().double(), SSFConfig()).double().eval()
    randomise(model, ".ssf_")
    folded = TINY_MODELS[name].build().double()
    layers = {n: m for n, m in model.base_model.model.named_modules() if hasattr(m, "ssf_output")}
    for path, layer in layers.items():
        base, adapter = folded.get_submodule(path), layer.ssf_output["default"]
        shape = (-1,) + (1,) * (base.weight.dim() - 1)
        bias = torch.zeros_like(adapter.shift) if base.bias is None else base.bias
        base.weight = torch.nn.Parameter(base.weight * adapter.scale.view(shape))
        base.bias = torch.nn.Parameter(bias * adapter.scale + adapter.shift)
    kinds = (torch.nn.Linear, torch.nn.LayerNorm, torch.nn.Conv2d)
    heads = ("classifier", "pooler")
    assert set(layers) == {n for n, m in folded.named_modules() if isinstance(m, kinds) and n not in heads}
    x = images().double()
    torch.testing.assert_close(predict(model, x), predict(folded, x), rtol=1e-10, atol=1e-10)


class LayerNorm2dFp32(LayerNorm2d):
    """Later releases of timm have one of this name."""


@pytest.mark.parametrize("norm", [LayerNorm2d, LayerNorm2dFp32])
def test_ssf_scales_the_channels_of_norms_of_images(norm):
    layer = SSFLayer(norm(4))
    layer.update_layer("default", SSFConfig(init_weights=False))
    layer.set_adapter("default")
    adapter, x = layer.ssf_output["default"], torch.randn(2, 4, 3, 5)
    expected = layer.base_layer(x) * adapter.scale[:, None, None] + adapter.shift[:, None, None]
    torch.testing.assert_close(layer(x), expected)


def test_ssf_leaves_out_all_that_is_in_an_excluded_module():
    model = get_peft_model(TINY_MODELS["vit-model"].build(), SSFConfig(exclude_modules=["layers.0.mlp"]))
    adapted = {name for name, module in model.named_modules() if hasattr(module, "ssf_output")}
    assert adapted and not any(".layers.0.mlp." in name for name in adapted)
    assert all(
        any(f".layers.{i}.{part}" in name for name in adapted) for i, part in ((0, "attention"), (1, "mlp.fc1"))
    )


def test_ssf_of_chosen_blocks_leaves_the_rest_alone():
    model = get_peft_model(TINY_MODELS["swin-model"].build(), SSFConfig(layers_to_transform=[-1]))
    names = [n for n, m in model.base_model.model.named_modules() if hasattr(m, "ssf_output")]
    assert len(names) == 8 and all(name.startswith("encoder.layers.1.blocks.1.") for name in names)


def attend(attention, tokens, prompts, bias=0.0):
    """Attention of `(B, N, C)` tokens over prompts and tokens; the bias `(B, heads, N, N)` is that of tokens alone."""
    heads, size = attention.num_attention_heads, attention.head_dim
    both = torch.cat([prompts, tokens], 1)

    def split(layer, x):
        return linear(layer, x).unflatten(-1, (heads, size)).transpose(1, 2)

    scores = split(attention.q_proj, tokens) @ split(attention.k_proj, both).mT / size**0.5
    scores[..., prompts.shape[1] :] += bias
    mixed = scores.softmax(-1) @ split(attention.v_proj, both)
    return linear(attention.o_proj, mixed.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("name", ["swin-model", "vit-model"])
def test_prompts_are_attended_to_and_dropped(name):
    model = double(VPTConfig(vpt_tokens=3), name).base_model.model
    blocks = [m for m in model.modules() if type(m).__name__ in ("SwinLayer", "ViTLayer")]
    for number, block in enumerate(blocks):
        layer = block.attention
        base = layer.base_layer
        tokens = torch.randn(8, 16, layer.width, dtype=torch.float64)
        prompts = layer.vpt_prompts["default"].tokens
        norm = block.layernorm_before
        normed = torch.nn.functional.layer_norm(prompts, (layer.width,), norm.weight, norm.bias, norm.eps)
        bias, mask = 0.0, None
        if "swin" in name:
            table = base.relative_position_bias
            bias = table.relative_position_bias_table[table.relative_position_index.flatten()]
            bias = bias.view(16, 16, -1).permute(2, 0, 1)[None]
            if number % 2:  # four windows an image, masked as in the shifted blocks
                mask = torch.where(torch.rand(4, 16, 16) < 0.3, -100.0, 0.0).double()
                bias = bias + mask.repeat(2, 1, 1)[:, None]
        expected = attend(base, tokens, normed.expand(8, -1, -1), bias)
        torch.testing.assert_close(layer(tokens, mask)[0], expected, rtol=1e-10, atol=1e-10)
    assert len(blocks) == TINY_MODELS[name].blocks


def test_the_norm_of_prompts_is_that_of_the_users_layout():
    model = TINY_MODELS["vit-model"].build()
    for block in model.layers:
        block.first = torch.nn.LayerNorm(32)
    spec = BlockSpec("ViTLayer", "layernorm_after", prefix_tokens=1, norm="first")
    get_peft_model(model, VPTConfig(block_specs=[spec]))
    assert all(block.attention.norm is block.first for block in model.layers)


def test_attention_with_a_position_bias_of_its_own_takes_no_prompts():
    model = TINY_MODELS["swin-model"].build()
    attention = model.encoder.layers[0].blocks[1].attention
    attention.other_relative_position_table = torch.nn.Parameter(torch.zeros(2))
    before = list(model.state_dict())
    with pytest.raises(ValueError, match=r"blocks\.1' \(SwinLayer\).*newer transformers"):
        get_peft_model(model, VPTConfig())
    assert list(model.state_dict()) == before


@pytest.mark.parametrize(
    "config",
    [
        VPTConfig(vpt_dropout=0.5),
        BottleneckConfig(bottleneck_dropout=0.5, init_weights=False),
        LoRandConfig(lorand_dropout=0.5, init_weights=False),
        AdaptFormerConfig(adaptformer_dropout=0.5, adaptformer_scale=1.0, init_weights=False),
    ],
    ids=lambda config: config.method,
)
def test_dropout_acts_in_training_only(config):
    model = get_peft_model(TINY_MODELS["vit-model"].build(), config)
    assert torch.equal(predict(model.eval(), images()), predict(model, images()))
    assert not torch.allclose(predict(model.train(), images()), predict(model, images()))


def test_lorand_shares_its_kernel_between_down_and_up():
    from mona_peft.tuners.lorand import LoRand

    adapter = LoRand(dim=6, bottleneck_dim=4, init_weights=False).double().eval()
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    torch.testing.assert_close(adapter(x), x + lorand(adapter, x))
    assert sum(p.numel() for p in adapter.parameters()) == 2 * 2 * 8 * (6 + 4) + 2 * 8**2


@pytest.mark.parametrize("config", [BottleneckConfig, AdaptFormerConfig])
def test_official_first_weights_reach_the_adapters(config):
    """Truncated normal of 0.02 with zero biases, the up projection too: the model starts away from the base."""
    tiny = TINY_MODELS["vit-classifier"]
    model = get_peft_model(tiny.build(), config(init_weights="official")).eval()
    drawn = {n: p for n, p in model.named_parameters() if p.requires_grad and (".down." in n or ".up." in n)}
    weights = torch.cat([p.flatten() for n, p in drawn.items() if n.endswith("weight")])
    assert weights.std().item() == pytest.approx(0.02, rel=0.05) and len(drawn) >= 8
    assert not any(p.any() for n, p in drawn.items() if n.endswith("bias"))
    assert not torch.allclose(predict(model, images()), predict(tiny.build(), images()))


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (BottleneckConfig, {"bottleneck_dim": 0}, "bottleneck_dim=0"),
        (BottleneckConfig, {"bottleneck_dropout": 1.0}, "bottleneck_dropout=1.0"),
        (BottleneckConfig, {"positions": ("attn",)}, "positions="),
        (BottleneckConfig, {"init_weights": "authors"}, "init_weights='authors' must be True or False or 'official'"),
        (LoRandConfig, {"init_weights": "official"}, "init_weights='official'"),
        (LoRandConfig, {"lorand_alpha": 0}, "lorand_alpha=0"),
        (LoRandConfig, {"lorand_beta": True}, "lorand_beta=True"),
        (LoRandConfig, {"bottleneck_dim": -1}, "bottleneck_dim=-1"),
        (LoRandConfig, {"lorand_dropout": -0.1}, "lorand_dropout=-0.1"),
        (VPTConfig, {"vpt_tokens": 0}, "vpt_tokens=0"),
        (VPTConfig, {"vpt_dropout": 2}, "vpt_dropout=2"),
        (AdaptFormerConfig, {"bottleneck_dim": 1.5}, "bottleneck_dim=1.5"),
        (AdaptFormerConfig, {"adaptformer_activation": "silu"}, "adaptformer_activation='silu'"),
        (AdaptFormerConfig, {"adaptformer_scale": "0.1"}, "adaptformer_scale='0.1'"),
    ],
)
def test_bad_settings_are_named(config, values, message):
    with pytest.raises(ValueError, match=message):
        config(**values)


@pytest.mark.parametrize("config", [BottleneckConfig, LoRandConfig, AdaptFormerConfig, SSFConfig, VPTConfig])
def test_models_without_known_blocks_are_refused(config):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    with pytest.raises(ValueError, match="no block that can be adapted"):
        get_peft_model(model, config())


@pytest.mark.parametrize("config", [BottleneckConfig, LoRandConfig])
def test_a_block_without_the_output_is_refused_and_left_alone(config):
    model = TINY_MODELS["vit-model"].build()
    block = model.layers[0] if hasattr(model, "layers") else model.encoder.layer[0]
    block.mlp.other = block.mlp.fc2
    del block.mlp.fc2
    before = list(model.state_dict())
    with pytest.raises(ValueError, match="no output projection of its mlp branch"):
        get_peft_model(model, config())
    assert list(model.state_dict()) == before
