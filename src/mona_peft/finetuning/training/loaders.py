"""Data loaders whose order and augmentation depend on seed, epoch and sample alone.

The order of an epoch is a permutation drawn from (seed, epoch), and each sample is drawn under a seed made of
(seed, epoch, index). So nothing of the data pipeline needs saving, and neither the number of workers nor stopping in
the middle of an epoch changes what the model sees.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

Key = tuple[int, int]
#: Makes a batch of samples, whatever a task has for both.
Collate = Callable[[list[Any]], object]


@contextmanager
def seeded(*entropy: int) -> Iterator[None]:
    """Seed Python's, numpy's and torch's CPU generators from `entropy` (non-negative) and put them back afterwards."""
    seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]) >> 1
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


class EpochBatchSampler(Sampler[list[Key]]):
    """Batches of (epoch, index), shuffled for every epoch by (seed, epoch).

    Args:
        size (`int`): Number of samples.
        batch_size (`int`): Samples a batch; the last may have fewer.
        seed (`int`): Of the run.
    """

    drop_last = False

    def __init__(self, size: int, batch_size: int, seed: int) -> None:
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size).tolist()
        for start in range(0, self.size, self.batch_size):
            yield [(self.epoch, index) for index in order[start : start + self.batch_size]]


class SeededSamples(Dataset):
    """A map-style data set read by (epoch, index), each sample under its own seed.

    Args:
        dataset (`Dataset`): Map-style, with a length.
        seed (`int`): Of the run.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: Key) -> tuple[Key, object]:
        with seeded(self.seed, *key):
            return key, self.dataset[key[1]]


class SeededCollate:
    """Collate under a seed made of the batch's first sample, for augmentation that mixes samples.

    Args:
        collate (`Callable`): Makes a batch of a list of items.
        seed (`int`): Of the run.
    """

    def __init__(self, collate: Collate, seed: int) -> None:
        self.collate = collate
        self.seed = seed

    def __call__(self, keyed_items: list[tuple[Key, object]]) -> object:
        # The constant keeps these draws apart from those of the sample itself.
        with seeded(self.seed, *keyed_items[0][0], 1):
            return self.collate([item for _, item in keyed_items])


def train_loader(dataset: Dataset, collate: Collate, batch_size: int, seed: int, num_workers: int = 0) -> DataLoader:
    """Loader of shuffled training batches; set `loader.batch_sampler.epoch` before each epoch."""
    return DataLoader(
        SeededSamples(dataset, seed),
        batch_sampler=EpochBatchSampler(len(dataset), batch_size, seed),  # type: ignore[arg-type]
        collate_fn=SeededCollate(collate, seed),
        **common_settings(num_workers),
    )


def eval_loader(dataset: Dataset, collate: Collate, batch_size: int, num_workers: int = 0) -> DataLoader:
    """Loader of batches in the order of the data set."""
    return DataLoader(dataset, batch_size=batch_size, collate_fn=collate, **common_settings(num_workers))


def common_settings(num_workers: int) -> dict[str, Any]:
    """Settings of both loaders. A generator of its own keeps a loader from drawing on the global one."""
    return {
        "num_workers": num_workers,
        "persistent_workers": num_workers > 0,
        "pin_memory": torch.cuda.is_available(),
        "generator": torch.Generator(),
    }
