"""Order and augmentation depend on seed, epoch and sample alone."""

import random

import numpy as np
import torch

from mona_peft.finetuning.training.loaders import EpochBatchSampler, seeded, train_loader
from tests.finetuning.training.toy import LineTask


def batches(num_workers=0, epoch=0, seed=0, batch_size=5):
    task = LineTask()
    loader = train_loader(task.dataset("train"), task.collate("train"), batch_size, seed, num_workers)
    loader.batch_sampler.epoch = epoch
    return [batch["x"] for batch in loader]


def test_each_sample_once_an_epoch_in_another_order():
    sampler = EpochBatchSampler(22, 5, seed=1)
    orders = []
    for epoch in range(3):
        sampler.epoch = epoch
        keys = [key for batch in sampler for key in batch]
        assert {key[0] for key in keys} == {epoch}
        orders.append([key[1] for key in keys])
        assert sorted(orders[-1]) == list(range(22))
        assert orders[-1] != list(range(22))
    assert orders[0] != orders[1] != orders[2]
    assert len(sampler) == 5


def test_workers_and_global_state_change_nothing():
    torch.manual_seed(1)
    first = batches()
    torch.manual_seed(2)
    assert all(map(torch.equal, first, batches(num_workers=2)))
    assert not torch.equal(first[0], batches(seed=1)[0])
    assert not torch.equal(first[0], batches(epoch=1)[0])


def test_loading_leaves_the_global_generators_alone():
    before = (random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state())
    batches()
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()
    assert torch.equal(torch.get_rng_state(), before[2])


def test_seeded_covers_every_generator_and_restores_after_errors():
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()

    with seeded(1, 2):
        first = draw()
    with seeded(1, 2):
        assert draw() == first
    with seeded(1, 3):
        assert draw() != first
    state = torch.get_rng_state()
    try:
        with seeded(5):
            torch.rand(3)
            raise KeyError
    except KeyError:
        pass
    assert torch.equal(torch.get_rng_state(), state)
