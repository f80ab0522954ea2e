"""Long tails: balanced draws see every class as often, and weights make every class count as much."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mona_peft.finetuning.data.classification.balancing import BalancedImages, class_weights, positive_weights
from mona_peft.finetuning.data.sources.classification import load_data
from mona_peft.finetuning.data.sources.config import DataConfig
from mona_peft.finetuning.tasks.classification import ClassificationTask
from mona_peft.finetuning.tasks.config import ClassificationConfig
from mona_peft.finetuning.training.loaders import train_loader
from tests.finetuning.tasks.tiny_classifier import write_classifier
from tests.support.photos import write_photos


class Numbers(torch.utils.data.Dataset):
    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return index


LABELS = np.repeat([0, 1, 2], [180, 15, 5])


def epoch(workers, number=0):
    loader = train_loader(BalancedImages(Numbers(LABELS), LABELS), list, 20, seed=3, num_workers=workers)
    loader.batch_sampler.epoch = number
    return [index for batch in loader for index in batch]


def test_every_class_is_drawn_as_often_and_the_same_with_any_number_of_workers():
    drawn = [LABELS[epoch(0, number)] for number in range(20)]
    counts = np.bincount(np.concatenate(drawn))
    assert counts.sum() == 20 * len(LABELS)
    assert np.allclose(counts / counts.sum(), 1 / 3, atol=0.03)  # four standard deviations are 0.03
    assert epoch(2) == epoch(0) != epoch(0, 1)
    assert len({index for number in range(20) for index in epoch(0, number)}) > 190  # no image is left out


def test_weights_make_classes_count_as_much():
    weights = class_weights(LABELS, 4)
    assert weights[3] == 0
    shares = [weights[label] * (LABELS == label).sum() for label in range(3)]
    assert torch.allclose(torch.stack(shares), torch.full((3,), len(LABELS) / 3))
    assert weights[LABELS].mean() == pytest.approx(1)
    several = np.array([[1, 0, 1], [0, 0, 1], [0, -1, 1], [0, 1, 1]])
    assert positive_weights(several).tolist() == [3, 2, 1]


class Fixed(nn.Module):
    """Gives the same logits for every image."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, pixel_values):
        return type("Output", (), {"logits": self.logits.expand(len(pixel_values), -1)})()


def test_a_task_draws_and_weighs(tmp_path):
    photos = write_photos(tmp_path / "photos", each=9)
    for file in sorted((photos / "red").iterdir())[3:]:
        file.unlink()
    data = load_data(DataConfig(dataset=str(photos)))  # blue 9, green 9, red 3
    model = str(write_classifier(tmp_path / "model"))
    plain = ClassificationTask(data, ClassificationConfig(model=model))
    weighed = ClassificationTask(data, ClassificationConfig(model=model, class_weights=True))
    drawn = ClassificationTask(data, ClassificationConfig(model=model, balanced_sampling=True))
    assert [isinstance(one.dataset("train"), BalancedImages) for one in (plain, weighed, drawn)] == [
        False,
        False,
        True,
    ]
    logits, labels = torch.tensor([[0.1, 0.5, -0.3]]), torch.tensor([0, 2])
    batch = {"pixel_values": torch.zeros(2, 3, 32, 32), "labels": labels, "index": torch.arange(2)}
    losses = F.cross_entropy(logits.expand(2, -1), labels, reduction="none")
    assert torch.isclose(plain.loss(Fixed(logits), batch), losses.mean())
    expected = (losses * torch.tensor([21 / 27, 21 / 9])).mean()
    assert torch.isclose(weighed.loss(Fixed(logits), batch), expected)
    assert torch.allclose(weighed.predict(Fixed(logits), batch)["loss"], losses)  # evaluations weigh nothing
    assert drawn.describe()["balanced_sampling"] and weighed.describe()["class_weights"]


def test_rare_classes_are_not_favoured_twice():
    with pytest.raises(
        ValueError, match="balanced_sampling draws every class as often already.*leave one of them out"
    ):
        ClassificationConfig(balanced_sampling=True, class_weights=True)


def test_what_cannot_be_balanced_is_refused(tmp_path):
    model = str(write_classifier(tmp_path / "model"))
    file = tmp_path / "labels.csv"
    write_photos(tmp_path / "photos", each=2)
    file.write_text("path,label\nphotos/red/0.jpg,a;b\nphotos/red/1.jpg,a\n")
    several = load_data(DataConfig(dataset=str(file)))
    with pytest.raises(ValueError, match="balanced_sampling is for data with one label an image"):
        ClassificationTask(several, ClassificationConfig(model=model, balanced_sampling=True))
    config = DataConfig(dataset=str(tmp_path / "photos"), streaming=True)
    with pytest.raises(ValueError, match="class_weights counts the images of each class first; a stream cannot"):
        ClassificationTask(load_data(config), ClassificationConfig(model=model, class_weights=True))
