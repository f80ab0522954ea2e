"""UperNet's heads against mmsegmentation's: norms, dropout, first weights; and that weights keep their names."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, SwinConfig, UperNetConfig, UperNetForSemanticSegmentation

import mona_peft
from mona_peft.finetuning.models.head_norms import FrozenBatchNorm2d, SyncBatchNorm2d, group_norm
from mona_peft.finetuning.models.upernet import OfficialUperNet, OfficialUperNetConfig
from tests.finetuning.tasks.tiny_dense import batch_of, tiny_task, write_swin
from tests.support.models import images


def backbone(**changes):
    return SwinConfig(
        image_size=32,
        patch_size=2,
        embed_dim=8,
        depths=[1, 1],
        num_heads=[1, 2],
        window_size=4,
        drop_path_rate=0.0,
        out_features=["stage1", "stage2"],
        **changes,
    )


def upernet(seed=0, **options):
    torch.manual_seed(seed)
    settings = {"hidden_size": 32, "auxiliary_channels": 16, "auxiliary_in_channels": 16, **options}
    config = OfficialUperNetConfig(backbone_config=backbone(), num_labels=5, **settings)
    return with_two_stages(OfficialUperNet(config))


def with_two_stages(model):
    """The auxiliary head takes the third stage, which the tiny backbone lacks."""
    model.auxiliary_head.in_index = 1
    return model


def heads(model):
    return (model.decode_head, model.auxiliary_head)


def test_first_weights_are_those_of_mmsegmentation():
    """ConvModule: Kaiming's normal over the fan out for a ReLU; `conv_seg`: normal of 0.01; norms at one and zero."""
    model = upernet(hidden_size=128, auxiliary_channels=64)
    convolutions = 0
    for head in heads(model):
        for name, module in head.named_modules():
            if name == "classifier":
                expected = 0.01
            elif isinstance(module, nn.Conv2d):
                expected = math.sqrt(2 / (module.out_channels * module.kernel_size[0] ** 2))
            else:
                continue
            convolutions += 1
            assert module.weight.std().item() == pytest.approx(expected, rel=0.12)
            assert abs(module.weight.mean().item()) < 4 * expected / math.sqrt(module.weight.numel())
            assert module.bias is None or not module.bias.any()
            # A normal distribution goes on where a uniform one of this deviation ends.
            assert module.weight.abs().max() > 1.8 * expected
    assert convolutions == 4 + 1 + 2 + 1 + 1 + 2  # pooling, bottleneck, lateral and FPN, its bottleneck, head; FCN
    assert all(
        m.weight.eq(1).all() and not m.bias.any() for m in model.decode_head.modules() if isinstance(m, nn.BatchNorm2d)
    )


def test_normal_first_weights_on_request():
    model = upernet(head_init="normal", initializer_range=0.3)
    assert model.decode_head.bottleneck.conv.weight.std().item() == pytest.approx(0.3, rel=0.1)
    assert model.decode_head.classifier.weight.std().item() == pytest.approx(0.3, rel=0.2)
    with pytest.raises(ValueError, match="head_init: normal as well"):
        upernet(initializer_range=0.3)
    with pytest.raises(ValueError, match="head_init is 'xavier'; choose one of official, normal"):
        upernet(head_init="xavier")
    with pytest.raises(ValueError, match="head_norm is 'layer'; choose one of batch, sync, group, frozen"):
        upernet(head_norm="layer")


def test_whole_channels_are_dropped_before_both_classifiers():
    """`Dropout2d(0.1)` before `conv_seg` of both heads, in training alone."""
    assert OfficialUperNetConfig(backbone_config=backbone()).head_dropout == 0.1
    model = upernet(head_dropout=0.4, hidden_size=64)
    features = torch.randn(3, 64, 6, 6)
    classifier = model.decode_head.classifier.train()
    torch.manual_seed(7)
    found = classifier(features)
    torch.manual_seed(7)
    kept = (torch.empty(3, 64, 1, 1).bernoulli_(0.6) / 0.6) * features
    assert torch.allclose(found, F.conv2d(kept, classifier.weight, classifier.bias), atol=1e-6)
    assert torch.equal(classifier.eval()(features), F.conv2d(features, classifier.weight, classifier.bias))
    assert model.auxiliary_head.classifier.dropout == 0.4


def test_weights_and_evaluation_are_those_of_transformers(tmp_path):
    """A checkpoint of either class loads into the other; both compute the same."""
    ours = upernet().eval()
    ours.decode_head.bottleneck.batch_norm.running_mean.normal_()
    settings = {"hidden_size": 32, "auxiliary_channels": 16, "auxiliary_in_channels": 16}
    config = UperNetConfig(backbone_config=backbone(), num_labels=5, **settings)
    theirs = with_two_stages(UperNetForSemanticSegmentation(config)).eval()
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        expected = theirs(images()).logits
        assert torch.equal(ours(images()).logits, expected)
        ours.save_pretrained(tmp_path)
        for loads in (OfficialUperNet, UperNetForSemanticSegmentation):
            again = loads.from_pretrained(tmp_path, config=AutoConfig.from_pretrained(tmp_path))
            assert torch.allclose(with_two_stages(again).eval()(images()).logits, expected, atol=1e-6)


@pytest.mark.parametrize("norm", ["sync", "group"])
def test_a_head_of_every_norm_is_saved_and_comes_back(norm, tmp_path):
    swin = write_swin(tmp_path / "swin")
    options = {"hidden_size": 32, "auxiliary_channels": 16, "head_norm": norm}
    task = tiny_task("upernet", swin, architecture_options=options)
    model = task.build_model()
    names = [name for name, _ in upernet().named_parameters() if "norm" in name]
    assert [name for name, _ in upernet(head_norm=norm).named_parameters() if "norm" in name] == names
    for _ in range(2):
        task.loss(model.train(), batch_of(task, "train")).backward()
    task.save(model.eval(), tmp_path)
    loaded = mona_peft.load(str(tmp_path / "model")).model.eval()
    batch = batch_of(task, "validation")["pixel_values"]
    with torch.no_grad():
        assert torch.allclose(loaded(pixel_values=batch).logits, model(pixel_values=batch).logits, atol=1e-6)


def test_what_each_norm_normalises_over():
    x = torch.randn(4, 32, 3, 5) * 3 + 2
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    by_batch = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
    sync = SyncBatchNorm2d(32).train()
    assert torch.allclose(sync(x), by_batch, atol=1e-5)  # one process alone
    assert torch.allclose(sync.running_mean, 0.1 * mean, atol=1e-6)
    frozen = FrozenBatchNorm2d(32).train()
    assert torch.allclose(frozen(x), x / math.sqrt(1 + 1e-5)) and not frozen.running_mean.any()
    frozen(x).sum().backward()
    assert frozen.weight.grad is not None
    grouped = x.view(4, 2, 16, 3, 5)
    expected = (grouped - grouped.mean((2, 3, 4), keepdim=True)) / (
        grouped.var((2, 3, 4), unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    assert torch.allclose(group_norm(32)(x), expected.view_as(x), atol=1e-5)
    assert [group_norm(channels).num_groups for channels in (8, 16, 24, 40, 256, 512)] == [1, 1, 1, 2, 16, 32]
    # A map of one pixel still says something.
    assert group_norm(32)(torch.randn(1, 32, 1, 1)).std() > 0.5


def test_every_norm_of_both_heads_is_replaced_and_none_of_the_backbone():
    kinds = {"sync": SyncBatchNorm2d, "group": nn.GroupNorm, "frozen": FrozenBatchNorm2d}
    for norm, kind in kinds.items():
        model = copy.deepcopy(upernet(head_norm=norm))
        found = [m for head in heads(model) for m in head.modules() if hasattr(m, "eps")]
        assert len(found) == 4 + 1 + 2 + 1 + 1 and {type(m) for m in found} == {kind}
        assert {type(m) for m in model.backbone.modules() if hasattr(m, "eps")} == {nn.LayerNorm}
        model.train()
        loss = model(pixel_values=images(), labels=torch.zeros(2, 32, 32, dtype=torch.long)).loss
        loss.backward()
        assert torch.isfinite(loss)


def test_several_processes_on_the_cpu_are_told_that_they_cannot_synchronise(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group=None: 2)
    norm, x = SyncBatchNorm2d(4), torch.randn(2, 4, 3, 3)
    with pytest.raises(ValueError, match="2 processes train on the CPU. Give head_norm: group"):
        norm.train()(x)
    assert torch.allclose(norm.eval()(x), x / math.sqrt(1 + 1e-5))
