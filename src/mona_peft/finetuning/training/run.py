"""A whole run: train, evaluate every split, draw and write what comes out, push it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate.utils import find_executable_batch_size

from mona_peft.finetuning.pictures.curves import draw_curves
from mona_peft.finetuning.pushing import push_repository

from .benchmark import benchmark, format_benchmark
from .config import TrainingConfig
from .loop import REPOSITORY, Trainer
from .run_folder import LOG_FILE, RUN_FILE
from .task import Task

TRIAL_STEPS = 2


def run_task(task: Task, config: TrainingConfig) -> dict[str, Any]:
    """Train `task` and write everything into the folder of the run.

    Args:
        task (`Task`): what to train.
        config (`TrainingConfig`): how.

    Returns:
        `dict[str, Any]`: what is in `metrics.json`: figures of the training, and of each split.
    """
    if config.auto_batch_size:
        config = fit_batch_size(task, config)
    if config.benchmark_steps:
        trainer = Trainer(task, replace(config, output_dir=None, report_to=["none"]))
        speed = benchmark(trainer, config.benchmark_steps)
        trainer.accelerator.print(format_benchmark(speed, config.benchmark_steps))
        return {"benchmark": speed}
    trainer = Trainer(task, config)
    figures = trainer.train()
    for split in ("validation", "test"):
        result = trainer.evaluate(split)
        if result is not None:
            figures[split] = result[0]
            if trainer.folder is not None and trainer.accelerator.is_main_process:
                task.report(result[1], split, trainer.folder)
    trainer.save(figures)
    if trainer.folder is not None and trainer.accelerator.is_main_process:
        draw_curves(trainer.folder / LOG_FILE, trainer.folder / "curves.png")
        print(f"The trained model is in {trainer.folder / REPOSITORY}")
        if config.push_to_hub:
            repo_id = config.hub_model_id or trainer.folder.resolve().name
            base_model = task.facts().get("base_model")
            pushed = push_repository(trainer.folder / REPOSITORY, repo_id, config.hub_private_repo, base_model)
            print(f"Pushed to {pushed}")
    trainer.close()
    return figures


def fit_batch_size(task: Task, config: TrainingConfig) -> TrainingConfig:
    """Halve the batch until a step fits in memory, and accumulate as many more batches.

    A run that is resumed keeps the size it started with, which its order of data depends on.
    """
    record = Path(config.output_dir or "") / RUN_FILE
    if config.resume and config.output_dir and record.exists():
        before = json.loads(record.read_text(encoding="utf-8"))
        return replace(
            config,
            batch_size=before["batch_size"],
            gradient_accumulation_steps=before["gradient_accumulation_steps"],
        )
    fitting = largest_fitting(config.batch_size, lambda batch_size: _try_steps(task, config, batch_size))
    factor = -(-config.batch_size // fitting)
    return replace(
        config,
        batch_size=fitting,
        gradient_accumulation_steps=config.gradient_accumulation_steps * factor,
    )


def largest_fitting(batch_size: int, attempt: Callable[[int], None]) -> int:
    """The first of `batch_size`, its half, its quarter ... for which `attempt` does not run out of memory."""

    @find_executable_batch_size(starting_batch_size=batch_size, reduce_batch_size_fn=None)
    def search(size: int) -> int:
        attempt(size)
        return size

    return search()


def _try_steps(task: Task, config: TrainingConfig, batch_size: int) -> None:
    """Train a few steps that are thrown away."""
    trial = replace(
        config,
        output_dir=None,
        batch_size=batch_size,
        gradient_accumulation_steps=1,
        max_steps=TRIAL_STEPS,
        progress_bar=False,
        report_to=["none"],
    )
    Trainer(task, trial).try_steps()
