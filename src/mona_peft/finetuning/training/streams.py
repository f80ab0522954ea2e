"""Training batches from a stream that is too large to keep, or to count.

A stream has no length, so a run over it is measured in steps. It is read again and again, shuffled differently each
time; its samples are drawn under seeds made of (seed, process, worker, pass, position), so a resumed run, which reads
past what it has seen, goes on with the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator

from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from .loaders import Collate, SeededCollate, common_settings, seeded


class SeededStream(IterableDataset):
    """An endless stream of (key, sample), each drawn under its own seed.

    Args:
        dataset (`IterableDataset`): One pass; `set_epoch(pass)` and `shard(process, processes)` are called if there.
        seed (`int`): Of the run.
        process (`int`): Which of the training processes this is.
        processes (`int`): How many there are.
    """

    def __init__(self, dataset: IterableDataset, seed: int, process: int, processes: int) -> None:
        if processes > 1:
            if not hasattr(dataset, "shard"):
                raise ValueError(f"{type(dataset).__name__} has no shard(process, processes); train in one process.")
            dataset.shard(process, processes)
        self.dataset = dataset
        self.seed = seed
        self.process = process

    def __iter__(self) -> Iterator[tuple[tuple[int, ...], object]]:
        worker = get_worker_info()
        number = worker.id if worker else 0
        epoch = 0
        while True:
            if hasattr(self.dataset, "set_epoch"):
                self.dataset.set_epoch(epoch)
            position = 0
            samples = iter(self.dataset)
            while True:
                key = (self.process, number, epoch, position)
                with seeded(self.seed, *key):
                    try:
                        sample = next(samples)
                    except StopIteration:
                        break
                yield key, sample
                position += 1
            if position == 0 and number == 0:
                raise ValueError("The stream is empty; there is nothing to train on.")
            if position == 0:  # more loading processes than shards: the others read them all
                return
            epoch += 1


class StreamLoader:
    """Batches of a stream on the device, as many as the run takes.

    Args:
        dataset (`IterableDataset`): One pass of samples.
        collate (`Callable`): Makes a batch of samples.
        batch_size (`int`): Samples a batch.
        seed (`int`): Of the run.
        num_workers (`int`): Loading processes; each reads its own shards.
        accelerator (`Accelerator`): Knows device and processes.
        length (`int`): Batches of the whole run.
    """

    def __init__(
        self,
        dataset: IterableDataset,
        collate: Collate,
        batch_size: int,
        seed: int,
        num_workers: int,
        accelerator: Accelerator,
        length: int,
    ) -> None:
        self.stream = SeededStream(dataset, seed, accelerator.process_index, accelerator.num_processes)
        self.loader = DataLoader(
            self.stream,
            batch_size=batch_size,
            collate_fn=SeededCollate(collate, seed),
            **common_settings(num_workers),
        )
        self.device = accelerator.device
        self.length = length
        self.skipped = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[object]:
        for number, batch in enumerate(self.loader):
            if number >= self.length:
                return
            if number >= self.skipped:
                yield send_to_device(batch, self.device)

    def skip(self, batches: int) -> StreamLoader:
        """The same loader, reading past its first batches."""
        self.skipped = batches
        return self
