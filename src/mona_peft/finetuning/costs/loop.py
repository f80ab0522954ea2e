"""The training loop against a bare PyTorch loop: same model, same JPEG files, same transforms, same optimiser."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
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
from mona_peft.finetuning.tasks.classification import ClassificationConfig, ClassificationTask
from mona_peft.finetuning.training import Trainer, TrainingConfig
from mona_peft.finetuning.training.optim import make_optimizer

IMAGES = 64
JPEG_SIDE = 500


class TimedTrainer(Trainer):
    """Notes when each batch starts."""

    clock: Callable[[], float] = staticmethod(time.perf_counter)

    def train_batch(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
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


def loop_task(folder: Path, image_size: int) -> ClassificationTask:
    """Mona on a Swin-T of random weights, on the files in `folder`."""

    def swin_tiny(class_names: tuple[str, ...]) -> nn.Module:
        return SwinForImageClassification(SwinConfig(image_size=image_size, id2label=dict(enumerate(class_names))))

    data = load_data(DataConfig(dataset=str(folder)))
    processor = ViTImageProcessor(size={"height": image_size, "width": image_size})
    return ClassificationTask(data, ClassificationConfig(method="mona"), model_factory=swin_tiny, processor=processor)


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
    """Let both loops take turns; the least median step of each counts, as other load only ever adds time.

    Args:
        steps (`int`): Steps of each loop in each round.
        rounds (`int`): Turns.
        batch_size (`int`): Images a step.
        image_size (`int`): Pixels a side.
        num_workers (`int`): Loading processes.
        clock (`Callable`): `time.process_time` counts this process's CPU time, whatever else the machine does.

    Returns:
        `dict[str, float]`: Seconds a step of `bare loop` and `this loop`.
    """
    medians: dict[str, list[float]] = {"bare loop": [], "this loop": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images")
        task = loop_task(folder / "images", image_size)
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
            medians["bare loop"].append(median(bare_loop(task, config, clock)))
            trainer = TimedTrainer(task, config)
            trainer.clock = clock
            medians["this loop"].append(median(trainer.run()))
    return {loop: min(values) for loop, values in medians.items()}
