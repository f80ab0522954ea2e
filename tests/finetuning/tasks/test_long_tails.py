"""Weights by class in segmentation, and that no task ignores a setting for long tails."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from mona_peft.finetuning.command_line import parse_arguments
from mona_peft.finetuning.commands.train import TASK_WORDS, arguments
from mona_peft.finetuning.data.classification.balancing import balanced_weights
from mona_peft.finetuning.data.dense.segmentation import LabelledImage, SegmentationData
from mona_peft.finetuning.models.pixel_loss import pixel_loss
from mona_peft.finetuning.training import Trainer
from tests.finetuning.tasks.tiny_dense import tiny_task, tiny_training, write_swin

#: By setting for long tails, the tasks that have it.
HAVE = {
    "balanced_sampling": {"classification"},
    "class_weights": {"classification", "segmentation"},
    "repeat_threshold": {"segmentation", "detection", "instances"},
}
VALUES = {"repeat_threshold": "0.1"}


@pytest.mark.parametrize("word", TASK_WORDS)
@pytest.mark.parametrize("setting", HAVE)
def test_every_task_has_a_setting_for_long_tails_or_says_why_not(word, setting, capsys, tmp_path):
    value = VALUES.get(setting, "true")
    types = arguments(word)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"{setting}: {value}\n")
    if word in HAVE[setting]:
        for words in ([f"--{setting}", value], [str(recipe)]):
            configs = parse_arguments(types, words)
            assert [getattr(c, setting) for c in configs if hasattr(c, setting)] == [0.1 if value == "0.1" else True]
        return
    for words in ([f"--{setting}", value], [f"--{setting.replace('_', '-')}={value}"]):
        with pytest.raises(SystemExit) as ended:
            parse_arguments(types, ["--seed", "1", *words])
        (line,) = capsys.readouterr().err.splitlines()
        assert ended.value.code == 2 and " ".join(words) in line and "has no place here: " in line
        assert any(f"Use --{other}," in line and word in HAVE[other] for other in HAVE)
    with pytest.raises(ValueError, match=rf"recipe\.yaml sets {setting}: {value}, which has no place here: .* Use --"):
        parse_arguments(types, [str(recipe)])


def masks(tmp_path, *label_maps):
    rows = []
    for number, labels in enumerate(label_maps):
        files = tmp_path / f"{number}.png", tmp_path / f"{number}_mask.png"
        stored = np.array(labels, np.uint8)
        Image.fromarray(stored).convert("RGB").save(files[0])
        Image.fromarray(stored).save(files[1])
        rows.append(LabelledImage(*files))
    return SegmentationData("few", {"train": rows[:-1], "validation": rows[-1:]}, ("road", "tree", "sign", "sky"))


def test_weights_come_of_the_training_pixels(tmp_path):
    model = write_swin(tmp_path / "model")
    data = masks(tmp_path, [[0, 0, 0, 255]], [[0, 0, 1, 255], [0, 255, 255, 2]], [[3, 3]])
    assert data.pixels("train").tolist() == [[3, 0, 0, 0], [3, 1, 1, 0]] and data.training_classes == [{0}, {0, 1, 2}]
    task = tiny_task("segformer", model, data=data, class_weights=True)
    # 8 pixels of 3 classes; one class has none
    assert torch.allclose(task.weights, torch.tensor([8 / 18, 8 / 3, 8 / 3, 0]))
    assert task.describe()["class_weights"] is True and tiny_task("segformer", model, data=data).weights is None
    repeated = tiny_task("segformer", model, data=data, class_weights=True, repeat_threshold=1.0)
    assert torch.equal(repeated.weights, balanced_weights(np.array([3 + 3 * 2**0.5, 2**0.5, 2**0.5, 0])))
    with pytest.raises(ValueError, match="class_weights counts the training pixels .* none of few has a label"):
        tiny_task("segformer", model, data=masks(tmp_path, [[255]], [[0]]), class_weights=True)


def expected_loss(logits, labels, weights):
    """torch's cross entropy of the labelled pixels alone, one class after another."""
    total, counted = 0.0, labels != 255
    for label, weight in enumerate(weights):
        chosen = labels == label
        if chosen.any():
            rows = logits.movedim(1, -1)[chosen]
            total += weight * F.cross_entropy(rows, labels[chosen], reduction="sum")
    return total / counted.sum()


def test_the_loss_is_that_of_torch_with_ignored_pixels():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator)
    labels = torch.randint(0, 3, (2, 4, 5), generator=generator)
    labels[0, :2] = 255
    weights = torch.tensor([0.5, 4.0, 1.5])
    mean = F.cross_entropy(logits, labels, weights, ignore_index=255)  # divided by the weights of the labelled pixels
    shares = weights[labels[labels != 255]].mean()
    assert torch.isclose(pixel_loss(logits, labels, weights, 255), mean * shares)
    assert torch.isclose(pixel_loss(logits, labels, weights, 255), expected_loss(logits, labels, weights))
    assert torch.isclose(pixel_loss(logits, labels, None, 255), F.cross_entropy(logits, labels, ignore_index=255))
    far = logits.clone()
    far[:, 1][labels == 255] = 1e4  # what stands at ignored pixels does not count
    assert torch.equal(pixel_loss(far, labels, weights, 255), pixel_loss(logits, labels, weights, 255))


@pytest.mark.parametrize("architecture", ["upernet", "segformer"])
def test_every_head_is_weighed(architecture, tmp_path):
    task = tiny_task(architecture, write_swin(tmp_path / "model"), class_weights=True)
    model = task.build_model().eval()
    seen: dict[str, torch.Tensor] = {}
    heads = ["decode_head", *(["auxiliary_head"] if architecture == "upernet" else [])]
    base = model.get_base_model()
    for name in heads:
        head: nn.Module = getattr(base, name)
        head.register_forward_hook(lambda module, args, output, name=name: seen.__setitem__(name, output))
    batch = task.collate("train")([task.dataset("train")[index] for index in range(2)])
    batch["labels"][0, :20] = 255
    loss = task.loss(model, batch)
    size = batch["pixel_values"].shape[-2:]
    parts = [
        expected_loss(F.interpolate(seen[name], size=size, mode="bilinear"), batch["labels"], task.weights)
        for name in heads
    ]
    expected = parts[0] + (0.4 * parts[1] if len(parts) > 1 else 0)
    assert torch.isclose(loss, expected, rtol=1e-5)
    weights, task.weights = task.weights, torch.ones_like(task.weights)
    even = task.loss(model, batch)
    task.weights = None
    assert torch.isclose(even, task.loss(model, batch), rtol=1e-5)  # transformers' own loss, then
    assert not torch.isclose(loss, even) and weights.max() / weights[weights > 0].min() > 2
    batch["labels"][:] = 255
    task.weights = weights
    assert task.loss(model, batch) == 0


def test_a_weighed_run_trains_and_is_resumed_with_its_weights_alone(tmp_path):
    model = write_swin(tmp_path / "model")
    Trainer(tiny_task("segformer", model, class_weights=True), tiny_training(tmp_path / "run", num_epochs=1)).train()
    with pytest.raises(ValueError, match="class_weights"):
        Trainer(tiny_task("segformer", model), tiny_training(tmp_path / "run", num_epochs=2, resume=True)).train()
