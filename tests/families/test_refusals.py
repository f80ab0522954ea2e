"""What cannot be adapted exactly is refused, with the reason, and the model stays as it was."""

import copy

import pytest
import timm.models as tm
import torch
import transformers as tr
from peft import get_peft_model
from timm.models import vision_transformer as tvt

from mona_peft import MonaConfig
from mona_peft.blocks.tapped import TappedBlock
from tests.families.family import Family, pixels, tensors
from tests.families.matrix import FAMILIES
from tests.families.timm_models import PLAIN as TIMM
from tests.families.transformers_models import PLAIN, TEXT
from tests.support.models import randomise

pytestmark = pytest.mark.filterwarnings("ignore")

VITDET = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, pretrain_image_size=32, patch_size=8
)

REFUSED = {
    "parallel branches": (
        lambda: tm.VisionTransformer(**TIMM, block_fn=tvt.ParallelScalingBlock),
        "its attention and its MLP read the same input",
    ),
    "parallel differential branches": (
        lambda: tm.VisionTransformer(**TIMM, block_fn=tvt.DiffParallelScalingBlock),
        "its attention and its MLP read the same input",
    ),
    "several MLPs": (
        lambda: tm.VisionTransformer(**TIMM, block_fn=tvt.ParallelThingsBlock),
        "several MLP branches read the residual stream",
    ),
    "a convolution behind the MLP": (
        lambda: tr.VitDetModel(tr.VitDetConfig(**VITDET, residual_block_indices=[1])),
        "'encoder.layer.1'.*a convolutional residual block follows its MLP",
    ),
}


def build(make):
    torch.manual_seed(0)
    return make().eval()


def unchanged(model):
    return (
        {name: type(module) for name, module in model.named_modules()},
        {name: set(vars(module)) for name, module in model.named_modules()},
        {name: parameter.requires_grad for name, parameter in model.named_parameters()},
    )


@pytest.mark.parametrize("case", list(REFUSED))
def test_refuses_blocks_for_which_the_identity_does_not_hold(case):
    make, reason = REFUSED[case]
    model = build(make)
    before = unchanged(model)
    with pytest.raises(ValueError, match=f"cannot be adapted exactly: .*{reason}|{reason}"):
        get_peft_model(model, MonaConfig())
    assert unchanged(model) == before


def test_the_other_blocks_can_be_adapted():
    model = build(lambda: tr.VitDetModel(tr.VitDetConfig(**VITDET, residual_block_indices=[1])))
    adapted = get_peft_model(model, MonaConfig(exclude_modules=["encoder.layer.1"]))
    names = [name for name, m in adapted.base_model.model.named_modules() if isinstance(m, TappedBlock)]
    assert names == ["encoder.layer.0"]


@pytest.mark.parametrize("ratio", [0.25, 0.75])
def test_refuses_masked_patches(ratio):
    model = get_peft_model(build(lambda: tr.ViTMAEModel(tr.ViTMAEConfig(**PLAIN, mask_ratio=ratio))), MonaConfig())
    with pytest.raises(ValueError, match="Tokens that were dropped, masked or added"):
        model(**pixels(32, 32))
    with model.disable_adapter():
        model(**pixels(32, 32))


def test_refuses_dropped_patches():
    model = get_peft_model(build(lambda: tm.VisionTransformer(**TIMM, patch_drop_rate=0.5)), MonaConfig())
    model.eval()(pixels(32, 32)["pixel_values"])
    with pytest.raises(ValueError, match="received 9 tokens, but a grid of 4 x 4 with 1 tokens before"):
        model.train()(pixels(32, 32)["pixel_values"])


def test_refuses_patches_that_no_convolution_cut():
    model = build(lambda: tm.naflexvit.NaFlexVit(tm.naflexvit.NaFlexVitCfg(embed_dim=16, depth=2, num_heads=2)))
    with pytest.raises(ValueError, match="No convolution that cuts the image into patches was found"):
        get_peft_model(model, MonaConfig())


def test_shuffling_changes_nothing():
    """ViT-MAE shuffles its patches even when none is masked: put back in order, the result is the same."""
    model = get_peft_model(build(lambda: tr.ViTMAEModel(tr.ViTMAEConfig(**PLAIN, mask_ratio=0.0))), MonaConfig())
    model = model.eval().double()
    randomise(model, std=0.3)
    image = {"pixel_values": pixels(32, 32)["pixel_values"].double()}
    ordered = torch.arange(16.0).expand(2, 16)
    shuffled = torch.rand(2, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(**image, noise=ordered).last_hidden_state
        output = model(**image, noise=shuffled)
    places = output.ids_restore[..., None].expand(-1, -1, 16)
    assert not torch.equal(output.ids_restore, torch.arange(16).expand(2, 16))
    restored = torch.cat([output.last_hidden_state[:, :1], output.last_hidden_state[:, 1:].gather(1, places)], dim=1)
    torch.testing.assert_close(restored, expected, rtol=0, atol=1e-10)


TOWERS = {
    "clip": (tr.CLIPModel, tr.CLIPConfig, "vision_model."),
    "siglip": (tr.SiglipModel, tr.SiglipConfig, "vision_model."),
    "siglip2": (tr.Siglip2Model, tr.Siglip2Config, "vision_model."),
    "metaclip_2": (tr.MetaClip2Model, tr.MetaClip2Config, "vision_model."),
    "aimv2": (tr.Aimv2Model, tr.Aimv2Config, "vision_model."),
}


@pytest.mark.parametrize("name", list(TOWERS))
def test_text_towers_are_never_adapted(name):
    cls, config, inside = TOWERS[name]
    model = build(lambda: cls(config(text_config=dict(TEXT), vision_config=dict(PLAIN), projection_dim=16)))
    text_tower = copy.deepcopy(model.text_model)
    adapted = get_peft_model(model, MonaConfig(bottleneck_dim=4))
    names = [n for n, m in adapted.base_model.model.named_modules() if isinstance(m, TappedBlock)]
    assert len(names) == 2 and all(n.startswith(inside) for n in names)
    before = unchanged(text_tower)
    with pytest.raises(ValueError, match="has no block that can be adapted"):
        get_peft_model(text_tower, MonaConfig())
    assert unchanged(text_tower) == before


def test_naming_a_text_tower_does_not_help():
    model = build(
        lambda: tr.CLIPModel(tr.CLIPConfig(text_config=dict(TEXT), vision_config=dict(PLAIN), projection_dim=16))
    )
    with pytest.raises(ValueError, match="'text_model.encoder.layers.0' .* not a block that can be adapted"):
        get_peft_model(model, MonaConfig(target_modules=r"text_model\.encoder\.layers\.\d+"))


def test_maskformer_swin_itself_loses_gradients_under_reentrant_checkpointing():
    """Why the matrix leaves this case out: the base model's own gradients differ, with no adapter near it."""
    family: Family = next(f for f in FAMILIES if f.name == "maskformer-swin")
    plain = family.model().double().train()
    checkpointed = copy.deepcopy(plain)
    checkpointed.gradient_checkpointing_enable({"use_reentrant": True})
    for model in (plain, checkpointed):
        torch.manual_seed(0)
        sum(t.sum() for t in tensors(family.call(model))).backward()
    one, other = (m.model.embeddings.patch_embeddings.projection.weight.grad for m in (plain, checkpointed))
    assert not torch.allclose(one, other)
