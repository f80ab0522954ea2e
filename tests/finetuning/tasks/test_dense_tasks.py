"""Every architecture on the shared loop: trains, is saved whole, comes back as it was."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import mona_peft
from mona_peft.finetuning.data.dense.objects import ObjectData, ObjectImage
from mona_peft.finetuning.inference.dense import LoadedDense
from mona_peft.finetuning.models.architectures import ARCHITECTURES as ALL
from mona_peft.finetuning.models.backbones import find_backbone_module
from mona_peft.finetuning.models.building import head_paths
from mona_peft.finetuning.models.cascade_mask_rcnn import CascadeMaskRCNNConfig
from mona_peft.finetuning.tasks.detection import DetectionConfig, DetectionTask
from mona_peft.finetuning.tasks.objects import ObjectMeter
from mona_peft.finetuning.training import Trainer
from mona_peft.finetuning.training.run_folder import read_log
from mona_peft.summary import summary
from tests.finetuning.tasks.tiny_dense import (
    ARCHITECTURE_OPTIONS,
    ARCHITECTURES,
    INSTANCE,
    SEMANTIC,
    batch_of,
    tiny_task,
    tiny_training,
)


def trained_parameters(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapters_and_heads_alone_get_gradients(swin, architecture):
    task = tiny_task(architecture, swin)
    model = task.build_model().train()
    task.loss(model, batch_of(task, "train")).backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == trained_parameters(model)
    backbone = "base_model.model." + find_backbone_module(model.get_base_model())[0]
    inside = {name for name in with_gradient if name.startswith(backbone)}
    assert inside and all(".mona." in name for name in inside)
    assert all(".modules_to_save." in name for name in with_gradient - inside)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_adapter_comes_back_with_identical_predictions(swin, architecture, tmp_path):
    task = tiny_task(architecture, swin)
    trainer = Trainer(task, tiny_training(tmp_path / "run", max_steps=2, num_epochs=1, no_checkpoints=True))
    figures = trainer.train()
    trainer.save(figures)
    trained = trainer.bare_model.eval()
    norms = [module for module in trained.modules() if isinstance(module, nn.BatchNorm2d)]
    if architecture in ("upernet", "segformer", "cascade_mask_rcnn"):
        assert any(module.running_mean.abs().sum() > 0 for module in norms)  # buffers that must be saved
    torch.manual_seed(99)  # fresh heads would now be others
    loaded = mona_peft.load(tmp_path / "run" / "model")
    batch = batch_of(task, "validation")
    with torch.no_grad():
        before, after = (task.predict(model, batch) for model in (trained, loaded.model))
    assert_same(before, after)
    assert isinstance(loaded, LoadedDense)
    check_pictures(task, loaded)


def assert_same(one, two):
    if isinstance(one, dict) and "counts" in one:
        assert torch.equal(one["counts"], two["counts"])
        return
    assert len(one) == len(two)
    for first, second in zip(one, two, strict=True):
        for name in ("boxes", "scores", "labels", "masks"):
            assert first.get(name) == second.get(name)


def check_pictures(task, loaded):
    """What `load` gives predicts on any image and draws it."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70), np.uint8))
    (found,) = loaded.predict([image], threshold=0.0)
    picture = loaded.draw(image, threshold=0.0)
    assert picture.width / picture.height == 70 / 50 and min(picture.size) >= 192
    if task.config.architecture in SEMANTIC:
        assert found["labels"].shape == (50, 70) and found["labels"].max() < 6
        return
    assert (found["boxes"][:, 2:] <= [70, 50]).all() and (found["boxes"] >= 0).all()
    assert len(found["names"]) == len(found["scores"]) and set(found["names"]) <= set("56789")
    if task.config.architecture in INSTANCE:
        assert found["masks"].shape == (len(found["boxes"]), 50, 70)
    assert not len(loaded.predict([image], threshold=1.1)[0]["boxes"])


@pytest.mark.parametrize("method", ["fixed", "full", "lora"])
@pytest.mark.parametrize("architecture", ["upernet", "cascade_mask_rcnn"])
def test_other_methods_come_back_too(swin, architecture, method, tmp_path):
    task = tiny_task(architecture, swin, method)
    trainer = Trainer(task, tiny_training(tmp_path / "run", max_steps=1, num_epochs=1, no_checkpoints=True))
    trainer.save(trainer.train())
    torch.manual_seed(99)
    loaded = mona_peft.load(tmp_path / "run" / "model")
    batch = batch_of(task, "validation")
    with torch.no_grad():
        assert_same(*(task.predict(m, batch) for m in (trainer.bare_model.eval(), loaded.model)))


@pytest.mark.parametrize("architecture", ["upernet", "segformer", "conditional_detr", "detr"])
def test_vit_backbones(vit, architecture):
    task = tiny_task(architecture, vit)
    model = task.build_model()
    blocks = {name.split(".mona.")[0] for name in trained_parameters(model) if ".mona." in name}
    assert len(blocks) == 4
    # Mona's up projections start at zero, so those below the last feature map only get gradients through them.
    task.loss(model, batch_of(task, "train")).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    model.eval()
    with torch.no_grad():
        task.predict(model, batch_of(task, "validation"))


def test_a_pyramid_needs_a_hierarchy(vit):
    with pytest.raises(ValueError, match="conditional_detr"):
        tiny_task("retinanet", vit, out_indices=[1, 2, 3]).build_model()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradient_checkpointing_and_channels_last_change_nothing(swin, architecture):
    losses, gradients = [], []
    for changed in (False, True):
        torch.manual_seed(0)
        task = tiny_task(architecture, swin, drop_path=0.0, gradient_checkpointing=changed)
        task.config.method_options = {"bottleneck_dim": 4, "mona_dropout": 0.0, "init_weights": False}
        torch.manual_seed(0)
        model = task.build_model().train()
        batch = batch_of(task, "train")
        if changed:
            model = model.to(memory_format=torch.channels_last)
            batch["pixel_values"] = batch["pixel_values"].contiguous(memory_format=torch.channels_last)
        torch.manual_seed(5)
        loss = task.loss(model, batch)
        loss.backward()
        losses.append(loss.item())
        gradients.append({n: p.grad for n, p in model.named_parameters() if ".mona." in n})
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    norm = [torch.stack([g.norm() for g in one.values()]).norm().item() for one in gradients]
    assert norm[0] > 0 and norm[0] == pytest.approx(norm[1], rel=1e-3)


@pytest.mark.parametrize("method", ["mona", "full"])
def test_every_trained_parameter_gets_a_gradient(swin, vit, method):
    """As processes expect that exchange gradients."""
    cases = [(architecture, swin) for architecture in ARCHITECTURES] + [("upernet", vit), ("conditional_detr", vit)]
    for architecture, backbone in cases:
        task = tiny_task(architecture, backbone, method)
        model = task.build_model().train()
        task.loss(model, batch_of(task, "train")).backward()
        assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None], architecture


def test_images_without_objects_train(swin):
    for architecture in ("retinanet", "detr", "conditional_detr", "cascade_mask_rcnn", "mask2former"):
        task = tiny_task(architecture, swin)
        model = task.build_model().train()
        batch = batch_of(task, "train")
        for target in batch["targets"]:
            target.update({name: value[:0] for name, value in target.items()})
        loss = task.loss(model, batch)
        loss.backward()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_label_maps_without_labels_train(swin):
    task = tiny_task("upernet", swin)
    model = task.build_model().train()
    batch = batch_of(task, "train")
    batch["labels"] = torch.full_like(batch["labels"], 255)
    loss = task.loss(model, batch)
    loss.backward()
    assert loss.item() == 0
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


def test_the_auxiliary_head_counts_four_tenths(swin):
    task = tiny_task("upernet", swin)
    model = task.build_model().eval()
    batch = batch_of(task, "train")
    bare = model.get_base_model()
    with torch.no_grad():
        whole = task.loss(model, batch)
        features = bare.backbone(batch["pixel_values"]).feature_maps
        parts = []
        for head in (bare.decode_head, bare.auxiliary_head):
            logits = nn.functional.interpolate(head(features), size=(64, 64), mode="bilinear", align_corners=False)
            parts.append(nn.functional.cross_entropy(logits, batch["labels"], ignore_index=255))
    assert whole.item() == pytest.approx((parts[0] + 0.4 * parts[1]).item(), rel=1e-5)
    assert bare.auxiliary_head.in_channels == 32  # stage 3 of 8, 16, 32, 64


@pytest.mark.slow
def test_the_loss_falls(swin):
    """Sixteen steps on one batch: the mean of the last four losses is below that of the first four."""
    for architecture in ARCHITECTURES:
        task = tiny_task(architecture, swin, drop_path=0.0)
        torch.manual_seed(0)
        model = task.build_model().train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
        batch, losses = batch_of(task, "train"), []
        for _ in range(16):
            optimizer.zero_grad()
            loss = task.loss(model, batch)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert np.mean(losses[-4:]) < np.mean(losses[:4]), architecture


def test_head_paths_are_everything_but_the_backbone(swin):
    for architecture in ARCHITECTURES:
        task = tiny_task(architecture, swin, "full")
        model = task.build_model()
        paths = head_paths(model)
        backbone = find_backbone_module(model)[0]
        for name, _ in model.named_parameters():
            assert name.startswith(backbone + ".") != any(name.startswith(f"{path}.") for path in paths), name


def test_a_method_that_selects_by_class_is_refused(swin):
    task = tiny_task("upernet", swin, "sct")
    with pytest.raises(ValueError, match="'sct' has to see images with one label each"):
        task.build_model()


def test_settings_are_checked(swin):
    with pytest.raises(ValueError, match="one of retinanet, detr, conditional_detr"):
        DetectionTask(None, DetectionConfig(model=str(swin), architecture="yolo"))
    with pytest.raises(ValueError, match="protocol"):
        tiny_task("retinanet", swin, protocol="pascal")
    with pytest.raises(ValueError, match="masks are measured"):
        tiny_task("mask2former", swin, protocol="voc")
    with pytest.raises(ValueError, match="stages 1 to 4"):
        tiny_task("retinanet", swin, out_indices=[2, 5]).build_model()
    with pytest.raises(ValueError, match="evaluation"):
        tiny_task("upernet", swin, evaluation="tiles")
    with pytest.raises(ValueError, match="heads has no setting iou; it has .*ious"):
        options = {"heads": {"iou": 0.5}}
        tiny_task("cascade_mask_rcnn", swin, architecture_options=options).build_model()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_settings_that_an_architecture_does_not_have_are_refused(architecture):
    """A misspelt setting once left the default in place."""
    message = f"The architecture '{architecture}' has no setting fpn_chanels, propsals; it has "
    with pytest.raises(ValueError, match=message):
        tiny_task(architecture, "nowhere", architecture_options={"fpn_chanels": 8, "propsals": 9})


def test_settings_of_the_cascade_that_the_detector_gives_are_refused():
    for heads in ({"channels": 8}, {"num_classes": 3}, {"box_feature": 8}):
        with pytest.raises(ValueError, match=f"heads has no setting {next(iter(heads))}; it has box_convs"):
            CascadeMaskRCNNConfig(heads=heads)


def test_every_architecture_takes_the_settings_of_its_configuration(swin):
    for architecture in ARCHITECTURES:
        assert set(ARCHITECTURE_OPTIONS[architecture]) <= ALL[architecture].options
        assert not {"id2label", "backbone_config", "kwargs", "self"} & ALL[architecture].options
    assert "fpn_channels" in ALL["retinanet"].options and "norm_groups" not in ALL["cascade_mask_rcnn"].options


def test_predictions_carry_no_annotations(swin):
    """What is true stands in the meter: it once travelled with every prediction from process to process."""
    for protocol in ("coco", "voc"):
        task = tiny_task("retinanet", swin, protocol=protocol)
        model = task.build_model().eval()
        batch = batch_of(task, "validation")
        with torch.no_grad():
            found = task.predict(model, batch)
        assert {type(value) for one in found for value in one.values()} <= {list, int}
        assert all(one.keys() == {"boxes", "scores", "labels", "index", "turn"} for one in found)
        images = task.data.splits["validation"]
        results = []
        for order in (range(len(found)), reversed(range(len(found)))):
            meter = task.meter("validation")
            meter.update([found[number] for number in order])
            assert [image for image, _ in meter.in_order()] == list(images)
            results.append(meter.compute())
        assert results[0] == results[1]


@pytest.mark.parametrize(("protocol", "figure"), [("coco", "box_ap"), ("voc", "ap50")])
def test_difficult_objects_need_not_be_found(protocol, figure):
    box = {"category_id": 1, "bbox": [0, 0, 40, 40], "area": 1600, "iscrowd": 0, "difficult": 0}
    image = ObjectImage(1, 100, 200, Path("a.png"), (box, {**box, "bbox": [100, 0, 40, 40], "difficult": 1}))
    one = {"boxes": [[0, 0, 40, 40]], "scores": [0.9], "labels": [0], "index": 0, "turn": 1}
    for found in (one, {**one, "boxes": [*one["boxes"], [100, 0, 140, 40]], "scores": [0.9, 0.95], "labels": [0, 0]}):
        meter = ObjectMeter(ObjectData("voc", {"test": [image]}, {1: "cat"}), [image], protocol, with_masks=False)
        meter.update([found])
        assert meter.compute()[figure] == pytest.approx(1)


def test_the_voc_protocol_on_scenes(swin, tmp_path):
    task = tiny_task("retinanet", swin, protocol="voc")
    trainer = Trainer(task, tiny_training(tmp_path / "run", max_steps=1, num_epochs=1, no_checkpoints=True))
    trainer.train()
    validation = [record for record in read_log(tmp_path / "run" / "metrics.jsonl") if record["kind"] == "validation"]
    assert {"ap50", "ap50_11point", "ap50_by_class", "num_samples"} <= validation[-1].keys()
    assert validation[-1]["num_samples"] == 5


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_what_mona_adds_is_what_is_counted_in_the_backbone(architecture, swin):
    frozen = summary(tiny_task(architecture, swin, "fixed").build_model())
    counts = summary(tiny_task(architecture, swin, "mona").build_model())
    assert frozen.backbone.trainable == 0
    assert counts.backbone.trainable == counts.backbone.total - frozen.backbone.total == counts.adapters.total > 0
    assert counts.head.trainable == counts.head.total == frozen.head.trainable == frozen.head.total > 0
