"""Settings of the official dense recipes: what is frozen, left out, padded and measured."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import mona_peft
from mona_peft.finetuning.data.dense.segmentation import LabelledImage, SegmentationData
from mona_peft.finetuning.models.backbones import find_backbone_module
from mona_peft.finetuning.tasks.detection import DetectionConfig
from mona_peft.finetuning.training import Trainer
from tests.finetuning.tasks.tiny_dense import batch_of, tiny_task, tiny_training


@pytest.mark.parametrize("method", ["full", "bitfit", "norm", "mona", "fixed"])
def test_the_patch_embedding_of_the_voc_recipe_is_frozen(swin, method):
    """The official `frozen_stages=1` freezes `patch_embed`, a convolution and a norm, and nothing else."""
    trained = []
    for frozen in (False, True):
        model = tiny_task("retinanet", swin, method, freeze_patch_embedding=frozen).build_model()
        path, backbone = find_backbone_module(model)
        trained.append({name for name, p in model.named_parameters() if p.requires_grad and name.startswith(path)})
    embedding = {
        "full": {"projection.weight", "projection.bias", "norm.weight", "norm.bias"},
        "bitfit": {"projection.bias", "norm.bias"},
        "norm": {"norm.weight", "norm.bias"},
        "mona": set(),
        "fixed": set(),
    }
    assert {name.split("embeddings.")[-1] for name in trained[0] - trained[1]} == embedding[method]
    assert trained[1] <= trained[0] and not any("embeddings" in name for name in trained[1])


def test_patch_embeddings_of_other_backbones(vit):
    model = tiny_task("segformer", vit, "full", freeze_patch_embedding=True).build_model()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert any("patch_embeddings.projection.weight" in name for name in frozen)
    assert not any("position_embeddings" in name or "cls_token" in name for name in frozen)


def test_images_without_objects_are_left_out_of_training_alone(swin):
    task = tiny_task("retinanet", swin, skip_empty_images=True)
    images = list(task.data.splits["train"])
    crowd = [{**one, "iscrowd": 1} for one in images[1].annotations]
    sliver = [{**images[2].annotations[0], "bbox": [5.0, 5.0, 0.5, 20.0]}]
    images[0], images[1] = replace(images[0], annotations=()), replace(images[1], annotations=tuple(crowd))
    images[2] = replace(images[2], annotations=tuple(sliver))
    data = replace(task.data, splits={"train": images, "validation": [images[0], *images[3:]]})
    counts = {}
    for skip in (True, False):
        task = tiny_task("retinanet", swin, data=data, skip_empty_images=skip)
        counts[skip] = [len(task.dataset(split)) for split in ("train", "validation")]
        assert task.meter("validation").images == data.splits["validation"]
    assert counts == {True: [3, 4], False: [6, 4]}
    batch = batch_of(tiny_task("retinanet", swin, data=data, skip_empty_images=True), "train")
    assert all(len(target["boxes"]) for target in batch["targets"])
    nothing = replace(data, splits={"train": images[:3]})
    with pytest.raises(ValueError, match="None of 3 training images has an object"):
        tiny_task("retinanet", swin, data=nothing, skip_empty_images=True).dataset("train")


def test_a_crop_is_needed_for_the_sides_before_it():
    with pytest.raises(ValueError, match="there is no crop"):
        DetectionConfig(crop_short_sides=[400, 500, 600])


def test_the_protocol_names_the_figure_that_selects(swin, tmp_path):
    for protocol, metric in (("coco", "box_ap"), ("voc", "ap50"), ("voc07", "ap50_11point")):
        assert tiny_task("retinanet", swin, protocol=protocol).best_metric == metric
    trainer = Trainer(tiny_task("retinanet", swin, protocol="voc07"), tiny_training(max_steps=1, num_epochs=1))
    result = trainer.train()
    figures, _ = trainer.evaluate("validation")
    assert result["best_ap50_11point"] == pytest.approx(figures["ap50_11point"]) and "ap50" in figures


def odd_image(side=(50, 70)):
    """A picture whose sides are no multiples of anything, with its labels."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (*side, 3), np.uint8))
    return image, Image.fromarray(rng.integers(0, 3, side, np.uint8))


def test_a_test_picture_is_segmented_whole_and_without_padding(swin, tmp_path):
    """mmsegmentation's test pipeline has no `Pad`: the backbone sees the resized picture and pads its own maps."""
    image, labels = odd_image()
    data = SegmentationData(
        "odd", {s: [LabelledImage(lambda: image, lambda: labels)] for s in ("train", "validation")}, ("a", "b", "c")
    )
    task = tiny_task("upernet", swin, "full", data=data, short_side=25, long_side=200)
    model = task.build_model().eval()
    batch = batch_of(task, "validation")
    assert batch["pixel_values"].shape == (1, 3, 25, 35)  # 50 x 70 into 200 x 25, the ratio kept
    with torch.no_grad():
        found = task.predict(model, batch)["counts"]
        logits = model(pixel_values=batch["pixel_values"]).logits
    predicted = F.interpolate(logits, size=(50, 70), mode="bilinear", align_corners=False)[0].argmax(0).numpy()
    truth = np.asarray(labels)
    for number in range(3):
        shared = ((predicted == number) & (truth == number)).sum()
        assert shared == found[0][0][number]
    # A saved model predicts what the evaluation does.
    trainer = Trainer(
        task, tiny_training(tmp_path / "run", max_steps=1, num_epochs=1, batch_size=2, no_checkpoints=True)
    )
    task.save(trainer.bare_model, tmp_path)
    loaded = mona_peft.load(str(tmp_path / "model"))
    with torch.no_grad():
        logits = trainer.bare_model.eval()(pixel_values=batch["pixel_values"]).logits
    predicted = F.interpolate(logits, size=(50, 70), mode="bilinear", align_corners=False)[0].argmax(0).numpy()
    assert (loaded.predict([image])[0]["labels"] == predicted).all()


def test_other_backbones_get_whole_patches(vit):
    image, labels = odd_image()
    data = SegmentationData("odd", {"validation": [LabelledImage(lambda: image, lambda: labels)]}, ("a", "b", "c"))
    task = tiny_task("segformer", vit, data=data, short_side=25, long_side=200)
    assert batch_of(task, "validation")["pixel_values"].shape == (1, 3, 32, 64)
