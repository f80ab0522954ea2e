"""Repeat-factor sampling: rare classes come as often as LVIS's rule says, in every dense task."""

import numpy as np
import pytest
from torch.utils.data import Dataset

from mona_peft.finetuning.data.dense.repeating import RepeatedImages, repeat_factors
from mona_peft.finetuning.data.dense.targets import trained_classes
from mona_peft.finetuning.training.loaders import train_loader
from tests.finetuning.tasks.tiny_dense import tiny_task, write_swin, write_vit

#: Class 0 everywhere, class 1 in 4 of 100 images, class 2 in one of those too.
CLASSES = [{0, 1, 2}, *[{0, 1}] * 3, *[{0}] * 95, set()]


class Numbers(Dataset):
    def __len__(self):
        return len(CLASSES)

    def __getitem__(self, index):
        return index


def epoch(workers, number):
    repeated = RepeatedImages(Numbers(), repeat_factors(CLASSES, 0.1))
    loader = train_loader(repeated, list, 16, seed=3, num_workers=workers)
    loader.batch_sampler.epoch = number
    return [index for batch in loader for index in batch]


def test_the_factors_are_those_of_lvis():
    factors = repeat_factors(CLASSES, 0.1)
    assert np.allclose(factors[:4], [10**0.5, *[2.5**0.5] * 3]) and (factors[4:] == 1).all()
    with pytest.raises(ValueError, match=r"repeat_threshold is 0\.005, but no class is .* is in 0\.01 of them"):
        repeat_factors(CLASSES, 0.005)


def test_images_come_as_often_as_their_factor_says_with_any_number_of_workers():
    counts = np.mean([np.bincount(epoch(0, number), minlength=100) for number in range(100)], axis=0)
    factors = repeat_factors(CLASSES, 0.1)
    assert (counts >= np.floor(factors)).all() and (counts[4:] == 1).all()
    assert abs(counts[1:4].mean() - factors[1]) < 0.1  # the draws of an epoch are two
    assert epoch(2, 1) == epoch(0, 1) and sorted(epoch(0, 1)) != sorted(epoch(0, 2))


@pytest.mark.parametrize(("architecture", "write"), [("segformer", write_swin), ("conditional_detr", write_vit)])
def test_dense_tasks_repeat_training_images_alone(tmp_path, architecture, write):
    model = write(tmp_path / "model")
    plain = tiny_task(architecture, model)
    data = plain.data
    if architecture == "segformer":
        classes = [set(np.unique(data.read(one)[1]).tolist()) - {255} for one in data.splits["train"]]
    else:
        classes = [trained_classes(one) for one in data.splits["train"]]
    task = tiny_task(architecture, model, repeat_threshold=1.0)
    repeated = task.dataset("train")
    assert isinstance(repeated, RepeatedImages) and len(repeated) > len(plain.dataset("train")) == 6
    assert len(repeated) == pytest.approx(repeat_factors(classes, 1.0).sum(), abs=1)
    rows = repeated.rows.tolist()
    assert [repeated[position]["index"] for position in range(len(rows))] == rows
    assert len(task.dataset("validation")) == 5 and task.describe()["repeat_threshold"] == 1.0
