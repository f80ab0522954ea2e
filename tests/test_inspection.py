"""Known blocks are told, unknown ones get a row that is proved, and what cannot be proved is not offered."""

import pytest
import timm
import torch
import transformers as tr
from peft import PeftModel, get_peft_model
from torch import nn

from mona_peft import MonaConfig, inspect_backbone
from mona_peft.blocks import known
from mona_peft.blocks.proving import find_flaw
from mona_peft.blocks.spec import BlockSpec
from mona_peft.finetuning.commands.main import main
from tests.families.transformers_models import PLAIN, SWIN, TEXT
from tests.support.models import randomise

PYRAMID = dict(depths=[1, 1, 2, 1], hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2])


class Block(nn.Module):
    """A block of a ViT that nobody knows, its branches scaled and in a list."""

    def __init__(self, dim):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(dim), nn.RMSNorm(dim)])
        self.mix = nn.MultiheadAttention(dim, 2, batch_first=True)
        self.feed = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.scale = nn.Parameter(torch.zeros(dim))

    def attend(self, x):
        y = self.norms[0](x)
        return self.scale * self.mix(y, y, y, need_weights=False)[0]

    def forward(self, x, keep=None):
        x = x + self.attend(x)
        return x + self.scale * self.feed(self.norms[1](x)), keep


class Parallel(Block):
    def forward(self, x, keep=None):
        return x + self.attend(x) + self.feed(self.norms[1](x)), keep


class NormedAfter(Block):
    def forward(self, x, keep=None):
        x = x + self.attend(x)
        return self.norms[0](x + self.feed(self.norms[1](x))), keep


class Shuffled(Block):
    """Its model transposes the grid before the blocks."""


class CustomViT(nn.Module):
    def __init__(self, block=Block, dim=12, registers=3):
        super().__init__()
        self.stem = nn.Conv2d(3, dim, 8, 8)
        self.before = nn.Parameter(torch.zeros(1, registers, dim))
        self.after = nn.Parameter(torch.zeros(1, 1, dim))
        self.layers = nn.ModuleList([block(dim) for _ in range(3)])
        self.head = nn.Linear(dim, 5)

    def forward(self, images):
        x = self.stem(images)
        if isinstance(self.layers[0], Shuffled):
            x = x.transpose(2, 3)
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.before.expand(len(x), -1, -1), x, self.after.expand(len(x), -1, -1)], 1)
        for layer in self.layers:
            x, _ = layer(x)
        return self.head(x.mean(1))


def without_row(monkeypatch, *classes):
    kept = tuple(row for row in known.BLOCK_SPECS if row.block not in classes)
    assert len(kept) < len(known.BLOCK_SPECS)
    monkeypatch.setattr(known, "BLOCK_SPECS", kept)


MODELS = {
    "ViTLayer": (lambda: tr.ViTModel(tr.ViTConfig(**PLAIN)), "layernorm_after", "patch_embed", (1,), ()),
    "SwinLayer": (lambda: tr.SwinModel(tr.SwinConfig(**SWIN)), "layernorm_after", "input_dimensions", (), ()),
    "Swinv2Layer": (lambda: tr.Swinv2Model(tr.Swinv2Config(**SWIN)), "intermediate", "input_dimensions", (), ()),
    "PvtLayer": (
        lambda: tr.PvtModel(tr.PvtConfig(image_size=64, **PYRAMID)), "layer_norm_2", "height,width", (), (1,)
    ),
    "YolosLayer": (
        lambda: tr.YolosModel(tr.YolosConfig(**PLAIN | {"image_size": [32, 48], "num_detection_tokens": 5})),
        "layernorm_after", "patch_embed", (1,), (),
    ),
    "SamVisionLayer": (
        lambda: tr.SamVisionModel(
            tr.SamVisionConfig(**PLAIN | {"mlp_dim": 32, "window_size": 3, "output_channels": 8})
        ),
        "layer_norm2", "channels_last", (), (),
    ),
    "ConvNextLayer": (
        lambda: tr.ConvNextModel(tr.ConvNextConfig(image_size=32, depths=[1, 2], num_stages=2, hidden_sizes=[4, 8])),
        "", "channels_first", (), (),
    ),
    "Block": (
        lambda: timm.create_model("vit_tiny_patch16_224", depth=2, embed_dim=12, num_heads=2, img_size=64),
        "norm2", "patch_embed", (1,), (),
    ),
    "SwinTransformerBlock": (
        lambda: timm.create_model(
            "swin_tiny_patch4_window7_224", depths=(2, 2), embed_dim=8, num_heads=(1, 2), img_size=64, window_size=2
        ),
        "norm2", "channels_last", (), (),
    ),
}  # fmt: skip


@pytest.mark.parametrize("cls", MODELS)
def test_a_known_model_without_its_row_gets_it_back(cls, monkeypatch):
    build, entry, grid, prefix, optional = MODELS[cls]
    torch.manual_seed(0)
    model = build().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    told = inspect_backbone(model)
    assert [one.cls for one in told.blocks if one.known] == [cls] and not told.proposals
    without_row(monkeypatch, cls)
    report = inspect_backbone(model)
    (spec,) = report.proposals
    assert (spec.block, spec.entry, spec.grid) == (cls, entry, grid)
    assert (spec.prefix_tokens, spec.optional_tokens) == (prefix, optional)
    assert "this row is proved" in str(report)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]


def test_a_custom_vit_is_adapted_saved_and_loaded_by_its_proposal(tmp_path):
    torch.manual_seed(0)
    model = CustomViT().eval()
    images = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        expected = model(images)
    report = inspect_backbone(model)
    (spec,) = report.proposals
    assert (spec.block, spec.entry, spec.grid) == ("Block", "norms.1", "patch_embed")
    assert (spec.prefix_tokens, spec.suffix_tokens) == ((3,), (1,))
    config = report.config(bottleneck_dim=4, modules_to_save=["head"])
    config.save_pretrained(tmp_path)
    assert MonaConfig.from_pretrained(tmp_path).block_specs == config.block_specs
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        assert torch.equal(adapted(images), expected)
        randomise(adapted)
        assert not torch.equal(changed := adapted(images), expected)
    adapted.save_pretrained(tmp_path / "adapter")
    torch.manual_seed(0)
    again = PeftModel.from_pretrained(CustomViT().eval(), tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(again(images), changed)


@pytest.mark.parametrize("block", [Parallel, NormedAfter, Shuffled])
def test_what_cannot_be_proved_is_not_offered(block):
    report = inspect_backbone(CustomViT(block))
    assert not report.proposals and not report.can_be_adapted
    (found,) = report.blocks
    reasons = {"Parallel": "no stream between", "NormedAfter": "not its parts", "Shuffled": "come from was not found"}
    assert reasons[block.__name__] in found.reason
    with pytest.raises(ValueError, match="has no block that can be adapted exactly"):
        report.config()


def test_a_wrong_row_has_a_flaw():
    model, inputs = CustomViT().double(), {"images": torch.randn(1, 3, 32, 48, dtype=torch.float64)}
    names = [f"layers.{number}" for number in range(3)]
    right = BlockSpec("Block", "norms.1", prefix_tokens=3, suffix_tokens=1)
    assert find_flaw(model, names, right, inputs) is None
    other = BlockSpec("Block", "norms.0", prefix_tokens=3, suffix_tokens=1)
    assert "is not its parts" in find_flaw(model, names, other, inputs)
    assert "grid of 4 x 6" in find_flaw(model, names, BlockSpec("Block", "norms.1", prefix_tokens=3), inputs)
    assert "`gone`" in find_flaw(model, names, BlockSpec("Block", "gone", prefix_tokens=3), inputs)


def test_towers_and_refused_blocks_are_told_apart():
    vision = {**PLAIN}
    model = tr.CLIPModel(tr.CLIPConfig(text_config=TEXT, vision_config=vision))
    text = str(inspect_backbone(model))
    assert "2 CLIPEncoderLayer (vision_model.encoder.layers.0 to vision_model.encoder.layers.1): known" in text
    assert "CLIPEncoderLayer (text_model.encoder.layers.0, ...): not adapted" in text
    block = timm.models.vision_transformer.ParallelScalingBlock
    model = timm.create_model("vit_tiny_patch16_224", depth=2, embed_dim=12, num_heads=2, img_size=32, block_fn=block)
    report = inspect_backbone(model)
    assert "its attention and its MLP read the same input" in str(report) and not report.can_be_adapted


def test_a_model_that_takes_something_else_is_given_it():
    class Two(CustomViT):
        def forward(self, images, mask):
            return super().forward(images * mask)

    report = inspect_backbone(Two())
    assert not report.blocks and "inspect_backbone(model, inputs)" in str(report)
    images = torch.randn(1, 3, 32, 48)
    assert inspect_backbone(Two(), {"images": images, "mask": torch.ones(1, 1, 32, 48)}).proposals


def test_the_command_builds_prints_and_writes(tmp_path, capsys, monkeypatch):
    tr.ViTConfig(**PLAIN).save_pretrained(tmp_path / "vit")
    assert main(["inspect", str(tmp_path / "vit")]) == 0
    assert "2 ViTLayer (layers.0 to layers.1): known" in capsys.readouterr().out
    without_row(monkeypatch, "ViTLayer")
    assert main(["inspect", str(tmp_path / "vit"), "--output", str(tmp_path / "row")]) == 0
    assert "this row is proved" in capsys.readouterr().out
    (spec,) = MonaConfig.from_pretrained(tmp_path / "row").block_specs
    assert spec == BlockSpec("ViTLayer", "layernorm_after", prefix_tokens=1, package="transformers.models.vit")
    assert main(["inspect", str(tmp_path / "vit"), "--output", str(tmp_path / "row")]) == 1
    assert "is not empty" in capsys.readouterr().err
    assert main(["inspect", "./gone"]) == 1 and main(["inspect"]) == 2
