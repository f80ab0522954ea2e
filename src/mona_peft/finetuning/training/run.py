"""A whole run: train, evaluate every split, draw and write what comes out, push it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from accelerate.utils import find_executable_batch_size, gather_object

from mona_peft.finetuning.files import read_json
from mona_peft.finetuning.pictures.curves import draw_curves
from mona_peft.finetuning.pushing import push_repository

from .closing import closing_text
from .config import TrainingConfig
from .loop import REPOSITORY, Trainer
from .run_folder import LOG_FILE, RUN_FILE, read_log
from .task import Task

TRIAL_STEPS = 2


def run_task(task: Task, config: TrainingConfig) -> dict[str, object]:
    """Train `task` and write everything into the folder of the run.

    Args:
        task (`Task`): What to train.
        config (`TrainingConfig`): How.

    Returns:
        `dict[str, object]`: What is in `metrics.json`: figures of the training, and of each split.
    """
    if config.auto_batch_size:
        config = fit_batch_size(task, config)
    trainer = Trainer(task, config)
    figures = trainer.train()
    trainer.save(figures)  # first of all: what comes next can fail
    for split in ("validation", "test"):
        _evaluate_split(trainer, split, figures)
    trainer.write_figures(figures)
    if trainer.run_folder is not None:
        folder = trainer.run_folder.path
        with drawing(trainer, "curves.png"):
            draw_curves(read_log(folder / LOG_FILE), folder / "curves.png")
        print(closing_text(folder, figures, trainer.task.metrics()), flush=True)
        if config.push_to_hub:
            repo_id = config.hub_model_id or folder.resolve().name
            base_model = task.facts().get("base_model")
            pushed = push_repository(folder / REPOSITORY, repo_id, config.hub_private_repo, base_model)
            print(f"Pushed to {pushed}")
    trainer.close()
    return figures


def _evaluate_split(trainer: Trainer, split: str, figures: dict[str, object]) -> None:
    """Add the figures of a split, where there is one, and draw its pictures.

    An error names what is safe already: the other processes cannot go on without this one, so it ends the run.
    """
    try:
        with trainer.waiting_for_processes():
            result = trainer.evaluate(split)
    except Exception as error:
        if trainer.folder is not None:
            error.add_note(
                f"This was the {split} split, after training. The trained model is whole in "
                f"{trainer.folder / REPOSITORY}; with the data mended, --resume evaluates it again."
            )
        raise
    if result is None:
        return
    figures[split] = result[0]
    if trainer.run_folder is not None:
        with drawing(trainer, f"the pictures of the {split} split"):
            trainer.task.report(result[1], split, trainer.run_folder.path)


@contextmanager
def drawing(trainer: Trainer, what: str) -> Iterator[None]:
    """List the pictures drawn as the run's own; one that fails is told, and the run goes on."""
    assert trainer.run_folder is not None
    with trainer.run_folder.own.noting():
        try:
            yield
        except Exception as error:
            warnings.warn(f"Could not draw {what}: {type(error).__name__}: {error}", stacklevel=4)


def fit_batch_size(task: Task, config: TrainingConfig) -> TrainingConfig:
    """Halve the batch until a step fits in memory, and accumulate as many more batches; processes take the least.

    A run that is resumed keeps the size it started with, which its order of data depends on.
    """
    record = Path(config.output_dir or "") / RUN_FILE
    if config.resume and config.output_dir and record.exists():
        before = read_json(record, "It holds the settings of the run; start over with --overwrite_output_dir.")
        return replace(
            config,
            batch_size=before["batch_size"],
            gradient_accumulation_steps=before["gradient_accumulation_steps"],
        )
    fitting = largest_fitting(config.batch_size, lambda batch_size: _try_steps(task, config, batch_size))
    fitting = min(gather_object([fitting]))
    return replace(
        config,
        batch_size=fitting,
        gradient_accumulation_steps=config.gradient_accumulation_steps * (config.batch_size // fitting),
    )


def largest_fitting(batch_size: int, attempt: Callable[[int], None]) -> int:
    """The first of `batch_size`, its half, its quarter ... for which `attempt` does not run out of memory.

    Every size divides `batch_size`: where no half does, the next smaller divisor is tried.
    """
    sizes = _halved(batch_size)

    @find_executable_batch_size(starting_batch_size=next(sizes), reduce_batch_size_fn=lambda: next(sizes, 0))
    def search(size: int) -> int:
        attempt(size)
        return size

    return search()


def _halved(batch_size: int) -> Iterator[int]:
    """`batch_size`, and again and again the greatest of its divisors that is at most half of the one before."""
    size = batch_size
    while size:
        yield size
        size = next((divisor for divisor in range(size // 2, 0, -1) if batch_size % divisor == 0), 0)


def _try_steps(task: Task, config: TrainingConfig, batch_size: int) -> None:
    """Train a few steps that are thrown away."""
    trial = replace(
        config,
        output_dir=None,
        batch_size=batch_size,
        gradient_accumulation_steps=1,
        max_steps=TRIAL_STEPS,
        schedule="constant",
        warmup_steps=0,
        warmup_epochs=0.0,
        progress_bar=False,
        report_to=["none"],
    )
    Trainer(task, trial).try_steps()
