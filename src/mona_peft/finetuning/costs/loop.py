"""The training loop against a bare PyTorch loop: same model, same JPEG files, same transforms, same optimiser.

And against itself on images that are in memory already, which tells what loading them costs.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from transformers import SwinConfig, SwinForImageClassification, ViTImageProcessor

from mona_peft.finetuning.data.classification.dataset import stack_samples
from mona_peft.finetuning.data.sources.classification import DataConfig, load_data
from mona_peft.finetuning.files import Json
from mona_peft.finetuning.tasks.classification import ClassificationConfig, ClassificationTask
from mona_peft.finetuning.training import Trainer, TrainingConfig
from mona_peft.finetuning.training.optim import make_optimizer

IMAGES = 64
JPEG_SIDE = 500


BARE, OURS, READY = "bare loop", "this loop", "this loop, images ready"


class ReadyTask(ClassificationTask):
    """The same task on training images that were read and transformed once."""

    @cached_property
    def samples(self) -> list[object]:
        """Those of the training split."""
        files = super().dataset("train")
        return [files[number] for number in range(IMAGES)]  # type: ignore[index]

    def dataset(self, split: str) -> Any:
        """What is in memory, for training."""
        return self.samples if split == "train" else super().dataset(split)


class TimedTrainer(Trainer):
    """Notes when each batch starts."""

    clock: Callable[[], float] = staticmethod(time.perf_counter)

    def train_batch(self, batch: object) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Note the time, and train."""
        self.starts.append(self.clock())
        return super().train_batch(batch)

    def run(self) -> list[float]:
        """Train and give the seconds from each batch to the next."""
        self.starts: list[float] = []
        self.train()
        return np.diff(self.starts).tolist()


def write_images(folder: Path) -> None:
    """JPEG files of two classes, with the detail of a photograph (smoothed noise)."""
    generator = np.random.default_rng(0)
    for number in range(IMAGES):
        noise = generator.integers(0, 256, (125, 125, 3), dtype=np.uint8)
        path = folder / "train" / f"class{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).resize((JPEG_SIDE, JPEG_SIDE), Image.Resampling.BICUBIC).save(path, quality=90)


def loop_task(
    folder: Path, image_size: int, kind: type[ClassificationTask] = ClassificationTask
) -> ClassificationTask:
    """Mona on a Swin-T of random weights, on the files in `folder`."""

    def swin_tiny(class_names: tuple[str, ...]) -> nn.Module:
        return SwinForImageClassification(SwinConfig(image_size=image_size, id2label=dict(enumerate(class_names))))

    data = load_data(DataConfig(dataset=str(folder)))
    processor = ViTImageProcessor(size={"height": image_size, "width": image_size})
    return kind(data, ClassificationConfig(method="mona"), model_factory=swin_tiny, processor=processor)


def bare_loop(task: ClassificationTask, config: TrainingConfig, clock: Callable[[], float]) -> list[float]:
    """A loop as one writes it by hand; gives the seconds from each batch to the next."""
    model = task.build_model().train()
    optimizer = make_optimizer(model, config)
    dataset = task.dataset("train")
    assert dataset is not None, "the folder has training images"
    loader: DataLoader = DataLoader(
        dataset, config.batch_size, shuffle=True, collate_fn=stack_samples, num_workers=config.num_workers
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    starts: list[float] = []
    while True:
        for batch in loader:
            starts.append(clock())
            if len(starts) > (config.max_steps or 0):
                return np.diff(starts).tolist()
            loss = nn.functional.cross_entropy(model(pixel_values=batch["pixel_values"]).logits, batch["labels"])
            loss.backward()
            nn.utils.clip_grad_norm_(trained, config.max_grad_norm or float("inf"))
            optimizer.step()
            optimizer.zero_grad()


def compare_loops(
    steps: int,
    rounds: int,
    batch_size: int = 8,
    image_size: int = 224,
    num_workers: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Let the loops take turns; the least median step of each counts, as other load only ever adds time.

    Args:
        steps (`int`): Steps of each loop in each round.
        rounds (`int`): Turns.
        batch_size (`int`): Images a step.
        image_size (`int`): Pixels a side.
        num_workers (`int`): Loading processes, which images that are ready do without.
        clock (`Callable`): `time.process_time` counts this process's CPU time, whatever else the machine does.

    Returns:
        `dict[str, float]`: Seconds a step of `BARE`, `OURS` and `READY`.
    """
    medians: dict[str, list[float]] = {BARE: [], OURS: [], READY: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images")
        task = loop_task(folder / "images", image_size)
        ready = loop_task(folder / "images", image_size, ReadyTask)
        for turn in range(rounds):
            config = TrainingConfig(
                output_dir=str(folder / f"run{turn}"),
                num_epochs=10**6,
                max_steps=steps,
                batch_size=batch_size,
                num_workers=num_workers,
                no_checkpoints=True,
                report_to=["none"],
                progress_bar=False,
                eval_epochs=10**6,
                cpu=True,
            )
            torch.manual_seed(0)
            medians[BARE].append(median(bare_loop(task, config, clock)))
            medians[OURS].append(median(timed_loop(task, config, clock)))
            in_memory = replace(config, output_dir=str(folder / f"ready{turn}"), num_workers=0)
            medians[READY].append(median(timed_loop(ready, in_memory, clock)))
    return {loop: min(values) for loop, values in medians.items()}


def timed_loop(task: ClassificationTask, config: TrainingConfig, clock: Callable[[], float]) -> list[float]:
    """This package's loop; gives the seconds from each batch to the next."""
    trainer = TimedTrainer(task, config)
    trainer.clock = clock
    return trainer.run()


def loop_sentence(results: Json) -> str:
    """What a file of `scripts/benchmark_loop.py` says."""
    steps, config = results["seconds"], results["config"]
    overhead, loading = (steps[OURS] / steps[BARE] - 1), 1 - steps[READY] / steps[OURS]
    clock = "CPU time of the training process" if config["cpu_time"] else "time"
    return (
        f"A step of {config['batch_size']} JPEG files on Swin-T with Mona takes {1e3 * steps[OURS]:.0f} ms, {clock}, "
        f"with {config['num_workers']} loading processes: {100 * overhead:+.1f}% over a loop written by hand, and "
        f"{100 * loading:.1f}% of it is gone where the images are in memory already (made by `{results['command']}`)."
    )
