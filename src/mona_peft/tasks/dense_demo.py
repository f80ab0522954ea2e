"""The dense demo: a small Swin pretrained to classify scanned digits 0 to 4 is adapted to find 5 to 9 in scenes.

Each task is trained with Mona, with the backbone fixed and in full, over several seeds, at the learning rate of the
grid that serves the method best on the validation scenes (tried with the first seed). The test scenes, whose digits
and photographs are in no other split, are read once for each run at that rate. The backbone never saw a scene before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

from mona_peft.data.ade20k import scene_segmentation
from mona_peft.data.scene_objects import scene_objects
from mona_peft.data.scenes import SceneSettings
from mona_peft.methods import count_parameters
from mona_peft.models.building import head_paths
from mona_peft.options import option
from mona_peft.tasks.dense_demo_pictures import draw_predictions
from mona_peft.tasks.dense_demo_pretraining import pretrain_small_swin
from mona_peft.tasks.detection import DetectionConfig, DetectionTask
from mona_peft.tasks.instance_segmentation import InstanceSegmentationConfig, InstanceSegmentationTask
from mona_peft.tasks.semantic_segmentation import SemanticSegmentationConfig, SemanticSegmentationTask
from mona_peft.training import Trainer, TrainingConfig
from mona_peft.training.checkpointing import write_json
from mona_peft.training.repository import weights_size
from mona_peft.training.task import Task

METHODS = ("mona", "fixed", "full")
METHOD_OPTIONS = {"mona": {"bottleneck_dim": 16}}
SCENES = SceneSettings(size=64, max_objects=2, object_share=(0.4, 0.65), dark_ink_share=0.0, brightness=0.4)


@dataclass
class DenseDemoConfig:
    """The demo, run when no dataset is given."""

    demo_size: str = option("full", "How much the demo does: full (half an hour) or tiny (seconds).")
    demo_dir: str = option("outputs/demo-dense", "Where the demo writes; the tasks share its pretrained backbone.")


@dataclass(frozen=True)
class DenseDemoSize:
    """How much the demo does.

    Args:
        pretraining_epochs (`int`): over the scans of 0 to 4.
        scenes (`dict[str, int]`): scenes of each split.
        steps (`dict[str, int]`): optimiser steps of a run of each task.
        seeds (`int`): runs of each method.
        learning_rates (`tuple[float, ...]`): the grid of every method.
    """

    pretraining_epochs: int
    scenes: dict[str, int]
    steps: dict[str, int]
    seeds: int
    learning_rates: tuple[float, ...]


SIZES = {
    "full": DenseDemoSize(
        pretraining_epochs=20,
        scenes={"train": 640, "validation": 60, "test": 200},
        steps={"semantic_segmentation": 500, "detection": 1200, "instance_segmentation": 300},
        seeds=3,
        learning_rates=(3e-3, 1e-2),
    ),
    "tiny": DenseDemoSize(
        pretraining_epochs=1,
        scenes={"train": 16, "validation": 4, "test": 4},
        steps={"semantic_segmentation": 3, "detection": 3, "instance_segmentation": 3},
        seeds=2,
        learning_rates=(3e-3,),
    ),
}


def _common(method: str, backbone: Path) -> dict[str, Any]:
    """Settings of every task. A mirrored digit is another sign, so nothing is mirrored."""
    return {
        "model_name_or_path": str(backbone.resolve()),
        "method": method,
        "method_options": METHOD_OPTIONS.get(method, {}),
        "short_side": SCENES.size,
        "long_side": SCENES.size,
        "horizontal_flip": 0.0,
    }


def segmentation_task(method: str, backbone: Path, scenes: dict[str, int]) -> Task:
    """UperNet, narrow."""
    # Batch norm hides the scale of the weights before it: from the usual 0.02, made for hundreds of channels, every
    # step of Adam would turn them into others.
    options: Any = {"hidden_size": 32, "auxiliary_channels": 16, "initializer_range": 0.1}
    config = SemanticSegmentationConfig(
        **_common(method, backbone), architecture_options=options, crop_side=SCENES.size, scale=[0.9, 1.2]
    )
    return SemanticSegmentationTask(scene_segmentation(scenes, SCENES), config)


def detection_task(method: str, backbone: Path, scenes: dict[str, int]) -> Task:
    """RetinaNet, narrow, on all three stages of the small Swin: its digits are as small as the finest anchors."""
    options: Any = {"fpn_channels": 32, "norm_groups": 8}
    config = DetectionConfig(**_common(method, backbone), architecture_options=options, out_indices=[1, 2, 3])
    return DetectionTask(scene_objects(scenes, SCENES), config)


def instance_task(method: str, backbone: Path, scenes: dict[str, int]) -> Task:
    """Cascade Mask R-CNN, narrow."""
    heads = {"box_convs": 1, "box_features": 64, "mask_convs": 2, "rois_per_image": 32}
    options: Any = {"fpn_channels": 32, "proposals": 64, "anchor_scale": 4, "heads": heads}
    config = InstanceSegmentationConfig(**_common(method, backbone), architecture_options=options)
    return InstanceSegmentationTask(scene_objects(scenes, SCENES), config)


TASKS: dict[str, Callable[[str, Path, dict[str, int]], Task]] = {
    "semantic_segmentation": segmentation_task,
    "detection": detection_task,
    "instance_segmentation": instance_task,
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


def demo_training(task_name: str, size: DenseDemoSize, learning_rate: float, seed: int) -> TrainingConfig:
    """Settings of the loop of one run, without a folder."""
    steps = size.steps[task_name]
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


def train_once(task_name: str, method: str, rate: float, seed: int, size: DenseDemoSize, folder: Path) -> DenseRun:
    """Train one method at one learning rate with one seed, and save it under `folder`."""
    task = TASKS[task_name](method, folder / "pretrained" / "model", size.scenes)
    output = folder / task_name / f"{method}-{rate:g}-{seed}"
    config = demo_training(task_name, size, rate, seed)
    trainer = Trainer(task, replace(config, output_dir=str(output), overwrite_output_dir=True))
    figures = trainer.train()
    trainer.save(figures)
    return DenseRun(method, rate, seed, figures[f"best_{task.best_metric}"], figures, trainer, output / "model")


def run_method(task_name: str, method: str, size: DenseDemoSize, folder: Path, bar: Any) -> list[DenseRun]:
    """Choose the rate with the first seed, then run the other seeds at it."""

    def train(rate: float, seed: int) -> DenseRun:
        bar.set_postfix(method=method, lr=rate, seed=seed)
        run = train_once(task_name, method, rate, seed, size, folder)
        bar.update()
        return run

    trials = [train(rate, 0) for rate in size.learning_rates]
    best = max(trials, key=lambda run: run.validation)
    return [best, *(train(best.learning_rate, seed) for seed in range(1, size.seeds))]


def table_row(runs: list[DenseRun]) -> dict[str, Any]:
    """Figures of a method over the seeds."""
    first = runs[0]
    results = [run.trainer.evaluate("test") for run in runs]
    metric = first.trainer.metric
    bare = first.trainer.unwrapped_model()
    counts = count_parameters(bare, head_paths(_bare(bare)))
    return {
        "method": first.method,
        "learning_rate": first.learning_rate,
        "backbone_trainable": counts.backbone_trainable,
        "head_trainable": counts.head_trainable,
        "metric": metric,
        "test": [result[0].get(metric, 0.0) for result in results if result is not None],
        "seconds": mean(run.figures["seconds"] for run in runs),
        "bytes_on_disk": weights_size(first.repository),
    }


def _bare(model: Any) -> Any:
    """The model inside the `PeftModel`, with PEFT's wrappers of its heads counted as the heads."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


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


def run_dense_demo(task_name: str, size_name: str, folder: Path) -> dict[str, Any]:
    """Pretrain (once for all tasks), train every method, print the table and draw predictions beside the truth.

    Args:
        task_name (`str`): a key of `TASKS`.
        size_name (`str`): a key of `SIZES`.
        folder (`Path`): where everything is written.

    Returns:
        `dict[str, Any]`: the rows of the table and the path of the pictures.

    Raises:
        `ValueError`: if there is no such size.
    """
    if size_name not in SIZES:
        raise ValueError(f"Unknown demo size {size_name!r}; choose one of {', '.join(SIZES)}.")
    size = SIZES[size_name]
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    pretrain_small_swin(folder / "pretrained", size.pretraining_epochs)
    total = len(METHODS) * (len(size.learning_rates) + size.seeds - 1)
    with tqdm(total=total, desc=task_name.replace("_", " "), unit="run") as bar:
        runs = {method: run_method(task_name, method, size, folder, bar) for method in METHODS}
    rows = [table_row(group) for group in runs.values()]
    scenes = f"{size.scenes['train']} training scenes, {size.scenes['test']} test scenes, {size.seeds} seeds"
    print(f"\n{task_name.replace('_', ' ')}: {scenes}\n{format_table(rows)}")
    pictures = folder / f"{task_name}.png"
    draw_predictions({method: group[0].repository for method, group in runs.items()}, task_name, SCENES, pictures)
    print(f"Predictions beside the truth: {pictures}")
    result = {"task": task_name, "rows": rows, "pictures": str(pictures)}
    write_json(folder / f"{task_name}.json", result)
    return result
