"""The dense demo: a small backbone pretrained to classify scanned digits 0 to 4 is adapted to find 5 to 9 in scenes.

Each model is trained with Mona, with the backbone fixed and in full, over several seeds, at the learning rate of the
grid that serves the method best on the validation scenes (tried with the first seed). The test scenes, whose digits
and photographs are in no other split, are read once for each run at that rate. The backbone never saw a scene before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

from mona_peft.finetuning.files import write_json
from mona_peft.finetuning.repository import weights_size
from mona_peft.finetuning.settings import Settings, option
from mona_peft.finetuning.training import Trainer, TrainingConfig
from mona_peft.summary import summary

from .dense_demo_models import MODELS, SCENES, demo_model, scene_task
from .dense_demo_pictures import draw_predictions
from .dense_demo_pretraining import pretrain_backbone

METHODS = ("mona", "fixed", "full")


@dataclass
class DenseDemoConfig(Settings):
    """The demo, run when no dataset is given."""

    demo_size: str = option("full", "How much the demo does: full (half an hour) or tiny (seconds).")
    demo_dir: str = option("outputs/demo-dense", "Where the demo writes; its models share their pretrained backbones.")


@dataclass(frozen=True)
class DenseDemoSize:
    """How much the demo does.

    Args:
        pretraining_epochs (`int`): over the scans of 0 to 4, see `pretrain_backbone`.
        held_out (`dict[str, int]`): scenes of each split but training.
        seeds (`int`): runs of each method.
        most_scenes (`int`, *optional*): training scenes, where that is fewer than the model's own.
        most_steps (`int`, *optional*): optimiser steps of a run, where that is fewer than the model's own.
        most_rates (`int`, *optional*): how much of the model's grid of learning rates is tried.
    """

    pretraining_epochs: int
    held_out: dict[str, int]
    seeds: int
    most_scenes: int | None = None
    most_steps: int | None = None
    most_rates: int | None = None

    def scenes(self, architecture: str) -> dict[str, int]:
        """Scenes of each split."""
        scenes = MODELS[architecture].train_scenes
        return {"train": min(scenes, self.most_scenes or scenes), **self.held_out}

    def steps(self, architecture: str) -> int:
        """Optimiser steps of a run."""
        steps = MODELS[architecture].steps
        return min(steps, self.most_steps or steps)

    def learning_rates(self, architecture: str) -> tuple[float, ...]:
        """The grid of every method."""
        return MODELS[architecture].learning_rates[: self.most_rates]


SIZES = {
    "full": DenseDemoSize(
        pretraining_epochs=20,
        held_out={"validation": 60, "test": 200},
        seeds=3,
    ),
    "tiny": DenseDemoSize(
        pretraining_epochs=1,
        held_out={"validation": 4, "test": 4},
        seeds=2,
        most_scenes=16,
        most_steps=3,
        most_rates=1,
    ),
}


@dataclass(frozen=True)
class DenseRun:
    """One run: what it reached on the validation scenes, and its trainer with the best weights."""

    method: str
    learning_rate: float
    seed: int
    validation: float
    figures: dict[str, Any]
    trainer: Trainer
    repository: Path


def demo_training(architecture: str, size: DenseDemoSize, learning_rate: float, seed: int) -> TrainingConfig:
    """Settings of the loop of one run, without a folder."""
    steps = size.steps(architecture)
    return TrainingConfig(
        num_epochs=steps,
        max_steps=steps,
        eval_steps=max(1, steps // 3),
        batch_size=8,
        eval_batch_size=20,
        learning_rate=learning_rate,
        warmup_steps=steps // 10,
        weight_decay=0.01,
        seed=seed,
        no_checkpoints=True,
        report_to=["none"],
        progress_bar=False,
        logging_steps=5,
    )


def train_once(
    architecture: str, method: str, rate: float, seed: int, size: DenseDemoSize, backbone: Path, folder: Path
) -> DenseRun:
    """Train one method at one learning rate with one seed, and save it under `folder`."""
    task = scene_task(architecture, method, backbone, size.scenes(architecture))
    output = folder / architecture / f"{method}-{rate:g}-{seed}"
    config = demo_training(architecture, size, rate, seed)
    trainer = Trainer(task, replace(config, output_dir=str(output), overwrite_output_dir=True))
    figures = trainer.train()
    trainer.save(figures)
    return DenseRun(method, rate, seed, figures[f"best_{task.best_metric}"], figures, trainer, output / "model")


def run_method(
    architecture: str, method: str, size: DenseDemoSize, backbone: Path, folder: Path, bar: Any
) -> list[DenseRun]:
    """Choose the rate with the first seed, then run the other seeds at it."""

    def train(rate: float, seed: int) -> DenseRun:
        bar.set_postfix(method=method, lr=rate, seed=seed)
        run = train_once(architecture, method, rate, seed, size, backbone, folder)
        bar.update()
        return run

    trials = [train(rate, 0) for rate in size.learning_rates(architecture)]
    best = max(trials, key=lambda run: run.validation)
    return [best, *(train(best.learning_rate, seed) for seed in range(1, size.seeds))]


def table_row(runs: list[DenseRun]) -> dict[str, Any]:
    """Figures of a method over the seeds."""
    first = runs[0]
    results = [run.trainer.evaluate("test") for run in runs]
    metric = first.trainer.metric
    counts = summary(first.trainer.bare_model)
    return {
        "method": first.method,
        "learning_rate": first.learning_rate,
        "backbone_trainable": counts.backbone.trainable,
        "head_trainable": counts.head.trainable,
        "metric": metric,
        "test": [result[0].get(metric, 0.0) for result in results if result is not None],
        "seconds": mean(run.figures["seconds"] for run in runs),
        "bytes_on_disk": weights_size(first.repository),
    }


def format_table(rows: list[dict[str, Any]]) -> str:
    """The rows as text; the metric as mean and standard deviation over the seeds."""
    title = f"test {rows[0]['metric']}"
    lines = [f"{'method':<8}{'rate':>8}{'backbone':>10}{'heads':>9}{title:>20}{'seconds':>9}{'on disk':>11}"]
    lines.append(f"{'':<8}{'':>8}{'trains':>10}{'trains':>9}{'mean ± std':>20}{'a run':>9}")
    for row in rows:
        values = [100 * value for value in row["test"]]
        spread = stdev(values) if len(values) > 1 else 0.0
        lines.append(
            f"{row['method']:<8}{row['learning_rate']:>8.0e}{row['backbone_trainable']:>10,}{row['head_trainable']:>9,}"
            f"{f'{mean(values):.1f} ± {spread:.1f}':>20}{row['seconds']:>9.1f}{row['bytes_on_disk'] / 1000:>8,.0f} kB"
        )
    return "\n".join(lines)


def run_dense_demo(task_name: str, architecture: str, size_name: str, folder: Path) -> dict[str, Any]:
    """Pretrain (once for all models), train every method, print the table and draw predictions beside the truth.

    Args:
        task_name (`str`): a key of `DENSE_KINDS`.
        architecture (`str`): one of the task's.
        size_name (`str`): a key of `SIZES`.
        folder (`Path`): where everything is written.

    Returns:
        `dict[str, Any]`: the rows of the table and the path of the pictures.

    Raises:
        `ValueError`: if there is no such size, or the task has no such architecture.
    """
    if size_name not in SIZES:
        raise ValueError(f"Unknown demo size {size_name!r}; choose one of {', '.join(SIZES)}.")
    size, model = SIZES[size_name], demo_model(task_name, architecture)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    backbone = pretrain_backbone(model.backbone, folder / "pretrained", size.pretraining_epochs)
    total = len(METHODS) * (len(size.learning_rates(architecture)) + size.seeds - 1)
    with tqdm(total=total, desc=model.title, unit="run") as bar:
        runs = {method: run_method(architecture, method, size, backbone, folder, bar) for method in METHODS}
    rows = [table_row(group) for group in runs.values()]
    numbers = size.scenes(architecture)
    scenes = f"{numbers['train']} training scenes, {numbers['test']} test scenes, {size.seeds} seeds"
    print(f"\n{model.title}, {model.task.replace('_', ' ')}: {scenes}\n{format_table(rows)}")
    pictures = folder / f"{architecture}.png"
    draw_predictions({method: group[0].repository for method, group in runs.items()}, model.task, SCENES, pictures)
    print(f"Predictions beside the truth: {pictures}")
    result = {"architecture": architecture, "task": model.task, "rows": rows, "pictures": str(pictures)}
    write_json(folder / f"{architecture}.json", result)
    return result
