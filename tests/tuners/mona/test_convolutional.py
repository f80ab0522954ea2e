"""Mona on convolutional backbones: one adapter after each block, and what such blocks refuse."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import transformers as tr
from peft import PeftModel, get_peft_model

from mona_peft import AdaptFormerConfig, BlockSpec, ConvpassConfig, MonaConfig, SCTConfig
from tests.support.models import images, randomise

CONFIG = dict(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], num_labels=3)


def resnet():
    torch.manual_seed(0)
    return tr.ResNetForImageClassification(tr.ResNetConfig(**CONFIG, layer_type="basic")).eval()


def adapted(**options):
    options = dict(bottleneck_dim=4, modules_to_save=["classifier.1"]) | options
    return get_peft_model(resnet(), MonaConfig(**options))


def statistics(model):
    return {k: v.clone() for k, v in model.state_dict().items() if "running" in k or "num_batches" in k}


def test_training_leaves_the_base_models_statistics_so_that_the_adapter_file_is_whole(tmp_path):
    model = adapted().train()
    before = statistics(model)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        model(pixel_values=images(), labels=torch.tensor([0, 2])).loss.backward()
        optimiser.step()
    assert all(torch.equal(before[name], value) for name, value in statistics(model).items())
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(resnet(), tmp_path).eval()
    with torch.no_grad():
        expected = model.eval()(pixel_values=images()).logits
        assert torch.equal(again(pixel_values=images()).logits, expected)
        assert not torch.equal(resnet()(pixel_values=images()).logits, expected)


def test_batch_norms_that_train_follow_their_batches():
    model = get_peft_model(resnet(), MonaConfig(bottleneck_dim=4, norm="batch")).train()
    own = [m for n, m in model.named_modules() if ".mona_" in n and isinstance(m, torch.nn.BatchNorm1d)]
    model(pixel_values=images())
    assert own and all(m.num_batches_tracked == 1 for m in own)


def injected():
    model = resnet()
    model.add_adapter(MonaConfig(bottleneck_dim=4, modules_to_save=["classifier.1"]))
    return model.train()


def looped_without_a_call_of_train():
    return get_peft_model(resnet().train(), MonaConfig(bottleneck_dim=4, modules_to_save=["classifier.1"]))


HELD = {
    "transformers": injected,
    "no call of train": looped_without_a_call_of_train,
    "base model's train": lambda: (model := adapted(), model.get_base_model().train())[0],
    "copied": lambda: copy.deepcopy(injected()),
    "pickled": lambda: pickle.loads(pickle.dumps(injected())),
    "converted": lambda: torch.nn.SyncBatchNorm.convert_sync_batchnorm(adapted()).train(),
    "compiled": lambda: torch.compile(injected(), backend="eager", fullgraph=True),
}


@pytest.mark.parametrize("make", HELD.values(), ids=HELD)
def test_frozen_statistics_are_held(make):
    model = make()
    before = statistics(model)
    for _ in range(2):
        model(pixel_values=images()).logits.sum().backward()
    assert before and all(torch.equal(before[name], value) for name, value in statistics(model).items())


def test_frozen_statistics_are_held_with_adapters_disabled_and_move_again_once_unloaded():
    model = adapted().train()
    before = statistics(model)
    with model.disable_adapter():
        model(pixel_values=images())
    assert all(torch.equal(before[name], value) for name, value in statistics(model).items())
    base = model.unload()
    assert all(m.training and not m._forward_hooks and not m._forward_pre_hooks for m in base.modules())
    base(pixel_values=images())
    tracked = [m.num_batches_tracked for m in base.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert tracked and all(number == 1 for number in tracked)


@pytest.mark.parametrize("options", [{"norm": "batch"}, {"modules_to_save": ["head"]}])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norms_train_once_their_adapter_is_active(options, affine):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = resnet().resnet
            self.head = torch.nn.Sequential(torch.nn.BatchNorm1d(16, affine=affine), torch.nn.Linear(16, 3))

        def forward(self, x):
            return self.head(self.backbone(x).pooler_output.flatten(1))

    config = MonaConfig(bottleneck_dim=4, **options)
    model = get_peft_model(Net(), config, "first").train()
    model.add_adapter("second", config)
    model.set_adapter("second")
    for _ in range(3):
        model(images(4))
    norms = {
        name: module.num_batches_tracked.item()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and (".mona_" in name or "head" in name)
    }
    moved = {name for name, tracked in norms.items() if tracked == 3}
    assert moved and moved == {name for name in norms if "second" in name}


def test_rows_choose_adapters_where_a_block_halves_the_image():
    model = adapted()
    model.add_adapter("other", MonaConfig(bottleneck_dim=4, modules_to_save=["classifier.1"]))
    randomise(model, std=0.3)
    model.eval()
    pixels = torch.cat([images(), images()])
    names = ["other", "default", "__base__", "other"]
    with torch.no_grad():
        mixed = model(pixel_values=pixels, adapter_names=names).logits
        for name in set(names) - {"__base__"}:
            model.set_adapter(name)
            rows = [row for row, own in enumerate(names) if own == name]
            torch.testing.assert_close(mixed[rows], model(pixel_values=pixels).logits[rows], rtol=0, atol=1e-6)
        torch.testing.assert_close(mixed[2:3], resnet()(pixel_values=pixels).logits[2:3], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        MonaConfig(positions=("attention",)),
        AdaptFormerConfig(),
        ConvpassConfig(),
        SCTConfig(num_channels=4),
    ],
    ids=lambda config: type(config).__name__,
)
def test_what_needs_branches_is_refused_and_the_model_left_as_it_was(config):
    model = resnet()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="is convolutional: it has no attention and no MLP branch"):
        get_peft_model(model, config)
    assert list(model.state_dict()) == list(before)
    assert not any(hasattr(module, "_tap") for module in model.modules())


def test_a_block_of_ones_own_may_be_convolutional():
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(6, 6, 3, padding=1)

        def forward(self, x):
            return x + self.conv(x)

    base = torch.nn.Sequential(Block(), Block())
    x = torch.randn(2, 6, 5, 7)
    expected = base(x)
    model = get_peft_model(base, MonaConfig(bottleneck_dim=4, block_specs=[BlockSpec("Block", grid="channels_first")]))
    model.eval()
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-6)
    randomise(model, std=0.3)
    assert not torch.allclose(model(x), expected)
    with pytest.raises(ValueError, match="none if the block is convolutional and its grid is one of"):
        BlockSpec("Block", grid="height,width")
