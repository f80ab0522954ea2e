"""Every tuner on every family: each parameter of each adapter acts, or the family is refused and left as it was."""

from __future__ import annotations

import pytest
import torch
import transformers as tr
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from mona_peft import (
    AdaptFormerConfig,
    BottleneckConfig,
    ConvpassConfig,
    LoRandConfig,
    MonaConfig,
    SCTConfig,
    SSFConfig,
    VPTConfig,
)
from mona_peft.tuners.sct import ChannelMap
from tests.families.family import loss
from tests.families.matrix import FAMILIES
from tests.families.table import family_id
from tests.families.test_refusals import unchanged
from tests.families.transformers_models import IN_5_0, PLAIN
from tests.support.models import images, randomise, swin_config

pytestmark = pytest.mark.filterwarnings("ignore")

CONFIGS = {
    "mona": MonaConfig(bottleneck_dim=4),
    "adaptformer": AdaptFormerConfig(bottleneck_dim=4),
    "bottleneck": BottleneckConfig(bottleneck_dim=4),
    "convpass": ConvpassConfig(bottleneck_dim=4),
    "lorand": LoRandConfig(lorand_beta=2),
    "sct": SCTConfig(num_channels=4, positions=("attention", "mlp")),
    "ssf": SSFConfig(),
    "vpt": VPTConfig(vpt_tokens=2),
}

NO_ATTENTION_OUTPUT = "no output projection of its attention branch"
NO_MLP_OUTPUT = "no output projection of its mlp branch"
NEVER_CALLED = "without calling it, so what .* puts in its place would never act"
NO_NORMS = "has no norms before its branches that the adapter could read"
IMAGE = "its attention sees an image, and not a sequence of tokens"
NO_NORM = "it must have a norm before its attention"
NO_ATTENTION = "it must have its attention under one of"
ARGUMENTS = "its attention is told .* which would not fit more tokens"
ORDER = "the order of its tokens says where they are"
WIDER = "its attention reads 8 channels and gives 16"
BIAS = "its attention adds a position bias"
CONVOLUTIONAL = "is convolutional: it has no attention and no MLP branch"

#: What each tuner refuses, and why; what is not here has to work.
REFUSED: dict[str, dict[str, str]] = {
    "bottleneck": {
        "transformers-dinov3_vit": NO_MLP_OUTPUT,
        "transformers-qwen2_5_vl": NO_MLP_OUTPUT,
        "transformers-qwen3_vl": NO_MLP_OUTPUT,
        "transformers-aimv2": NO_ATTENTION_OUTPUT,
        "transformers-vitdet": NO_ATTENTION_OUTPUT,
        "transformers-pvt_v2": NO_ATTENTION_OUTPUT,
        "transformers-eomt": NO_ATTENTION_OUTPUT,
        "torchvision-vit": NO_ATTENTION_OUTPUT,
        "torchvision-swin": NEVER_CALLED,
        "torchvision-swinv2": NEVER_CALLED,
    },
    "convpass": {
        "transformers-swinv2": NO_NORMS,
        "timm-vit, norms after the branches": NO_NORMS,
        "timm-eva, norms after the branches": NO_NORMS,
        "timm-swinv2": NO_NORMS,
        "torchvision-swinv2": NO_NORMS,
        "transformers-sam2": WIDER,
        "transformers-hiera": WIDER,
        "timm-hiera": WIDER,
    },
    "ssf": {
        "timm-beit": NEVER_CALLED,
        "timm-eva": NEVER_CALLED,
        "timm-eva, norms after the branches": NEVER_CALLED,
        "timm-swinv2": NEVER_CALLED,
        "torchvision-vit": NEVER_CALLED,
        "torchvision-swin": NEVER_CALLED,
        "torchvision-swinv2": NEVER_CALLED,
    },
    "vpt": {
        "transformers-swinv2": NO_NORM,
        "transformers-maskformer-swin": BIAS,
        "transformers-donut-swin": BIAS,
        "transformers-data2vec-vision": BIAS,
        "transformers-siglip": NO_ATTENTION,
        "transformers-siglip2": NO_ATTENTION,
        "transformers-clip": NO_ATTENTION,
        "transformers-metaclip_2": NO_ATTENTION,
        "transformers-clip (two towers)": NO_ATTENTION,
        "transformers-aimv2": NO_NORM,
        "transformers-vitdet": IMAGE,
        "transformers-pvt": NO_NORM,
        "transformers-pvt_v2": NO_NORM,
        "transformers-sam": NO_NORM,
        "transformers-sam_hq": NO_NORM,
        "transformers-sam3": NO_NORM,
        "transformers-sam2": NO_NORM,
        "timm-sam vit": IMAGE,
        "transformers-hiera": ORDER,
        "timm-hiera": ORDER,
        "transformers-qwen2_vl": ORDER,
        "transformers-qwen2_5_vl": ORDER,
        "transformers-qwen3_vl": ORDER,
        "transformers-segformer": ARGUMENTS,
        "timm-vit, norms after the branches": NO_NORM,
        "timm-beit": ARGUMENTS,
        "timm-vit, relative positions": ARGUMENTS,
        "timm-eva": ARGUMENTS,
        "timm-eva, norms after the branches": NO_NORM,
        "timm-swin": IMAGE,
        "timm-swinv2": NO_NORM,
        "transformers' TimmWrapper-swin": IMAGE,
        "torchvision-vit": NO_ATTENTION,
        "torchvision-swin": IMAGE,
        "torchvision-swinv2": NO_NORM,
    },
}
if IN_5_0:
    REFUSED["ssf"] |= {"transformers-siglip": NEVER_CALLED, "transformers-siglip2": NEVER_CALLED}
    REFUSED["vpt"] |= {"transformers-swin": BIAS, "transformers-beit": BIAS, "transformers-segformer": NO_NORM}
for family in FAMILIES:
    if not family.branches:
        REFUSED["bottleneck"][family_id(family)] = NO_ATTENTION_OUTPUT
        REFUSED["vpt"][family_id(family)] = NO_ATTENTION
        for refusing in ("adaptformer", "convpass", "sct"):
            REFUSED.setdefault(refusing, {})[family_id(family)] = CONVOLUTIONAL
REFUSED["lorand"] = REFUSED["bottleneck"]


def ready(model, method):
    """Give every parameter of the adapters a value with an effect, and SCT some channels."""
    for module in model.modules():
        if isinstance(module, ChannelMap):
            module.select(torch.rand(module.dim))
    randomise(model, f".{method}_")
    return model.train()


def idle(model, method):
    """The parameters of the adapters that the loss does not depend on."""
    own = {name: p for name, p in model.named_parameters() if f".{method}_" in name}
    assert own
    return [name for name, p in own.items() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("family", FAMILIES, ids=family_id)
@pytest.mark.parametrize("method", CONFIGS)
def test_every_parameter_acts_or_the_family_is_refused(method, family):
    base = family.model()
    reason = REFUSED.get(method, {}).get(family_id(family))
    if reason is not None:
        before = unchanged(base)
        with pytest.raises(ValueError, match=reason):
            get_peft_model(base, CONFIGS[method])
        assert unchanged(base) == before
        return
    model = ready(get_peft_model(base, CONFIGS[method]), method)
    loss(family.call(model)).backward()
    assert idle(model, method) == []


#: Families of which the attention is refused and the MLP is not.
MLP_ALONE = [
    family_id(family)
    for family in FAMILIES
    if REFUSED["bottleneck"].get(family_id(family), NO_MLP_OUTPUT) != NO_MLP_OUTPUT
    and family.branches
    and family.name != "aimv2"
]


@pytest.mark.parametrize("method", ["bottleneck", "lorand"])
@pytest.mark.parametrize("name", MLP_ALONE)
def test_without_the_attention_that_refuses_the_adapters_act(method, name):
    family = next(f for f in FAMILIES if family_id(f) == name)
    config = type(CONFIGS[method])(positions=("mlp",))
    model = ready(get_peft_model(family.model(), config), method)
    loss(family.call(model)).backward()
    assert idle(model, method) == []


BLOCKS = PLAIN | {"image_size": 32}
BACKBONES = {
    "swin": lambda: tr.SwinBackbone(swin_config(out_features=["stage1", "stage2"])),
    "maskformer-swin": lambda: tr.MaskFormerSwinBackbone(
        tr.MaskFormerSwinConfig(
            image_size=32,
            patch_size=2,
            embed_dim=16,
            depths=[2, 2],
            num_heads=[2, 4],
            window_size=4,
            out_features=["stage1", "stage2"],
        )
    ),
    "dinov2": lambda: tr.Dinov2Backbone(tr.Dinov2Config(**BLOCKS, out_features=["stage1", "stage2"])),
    "dinov2, no norm": lambda: tr.Dinov2Backbone(
        tr.Dinov2Config(**BLOCKS, out_features=["stage1", "stage2"], apply_layernorm=False)
    ),
    "dinov2 with registers, no norm": lambda: tr.Dinov2WithRegistersBackbone(
        tr.Dinov2WithRegistersConfig(**BLOCKS, out_features=["stage1", "stage2"], apply_layernorm=False)
    ),
    "clip": lambda: tr.CLIPForImageClassification(tr.CLIPConfig(vision_config=dict(BLOCKS))),
    "siglip": lambda: tr.SiglipForImageClassification(tr.SiglipConfig(vision_config=dict(BLOCKS))),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_ssf_leaves_out_what_has_no_part_in_the_output(name):
    torch.manual_seed(0)
    model = ready(get_peft_model(BACKBONES[name](), SSFConfig()), "ssf")
    loss(model(pixel_values=images())).backward()
    assert idle(model, "ssf") == []


def test_ssf_loads_a_file_that_has_scales_of_an_unused_norm(tmp_path):
    model = ready(get_peft_model(BACKBONES["swin"](), SSFConfig()), "ssf")
    model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    extra = {f"base_model.model.swin.layernorm.ssf_output.{part}": torch.ones(32) for part in ("scale", "shift")}
    save_file(load_file(path) | extra, path)
    loaded = PeftModel.from_pretrained(BACKBONES["swin"](), tmp_path)
    own = {name: p for name, p in loaded.named_parameters() if ".ssf_" in name}
    assert all(torch.equal(p, model.get_parameter(name)) for name, p in own.items())


def test_ssf_reads_a_norm_of_images_channels_first():
    family = next(f for f in FAMILIES if f.name == "eomt")
    model = get_peft_model(family.model(), SSFConfig())
    layers = [m for m in model.modules() if hasattr(m, "ssf_output") and "LayerNorm2d" in type(m.base_layer).__name__]
    assert layers
    randomise(model, ".ssf_", std=0.3)
    for layer in layers:
        adapter, x = layer.ssf_output["default"], torch.randn(2, layer.width, 3, 5)
        expected = adapter.scale[:, None, None] * layer.base_layer(x) + adapter.shift[:, None, None]
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)
