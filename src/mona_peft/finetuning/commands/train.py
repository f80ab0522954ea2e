"""`mona-peft train`: fine-tune on one's own data, or, without any, run the demo."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mona_peft.finetuning.command_line import read_command_line
from mona_peft.finetuning.data.sources.config import SourceConfig
from mona_peft.finetuning.settings import refuse_unused
from mona_peft.finetuning.study.config import DemoConfig, DenseDemoConfig
from mona_peft.finetuning.study.tuning_config import TuneConfig
from mona_peft.finetuning.tasks.config import TASK_SETTINGS, ModelConfig
from mona_peft.finetuning.training.config import TrainingConfig

from .command import Command, Job, program
from .starting import HELD_OUT, STARTS, describe_rates, with_folder, with_launched, with_usual, with_validation

#: Tasks by the word of the command.
TASK_WORDS = {
    "classification": "classification",
    "segmentation": "semantic_segmentation",
    "detection": "detection",
    "instances": "instance_segmentation",
}
ABOUT = {
    "classification": "Fine-tune an image classifier: one label an image, or several.",
    "segmentation": "Fine-tune a semantic segmenter: a class for each pixel.",
    "detection": "Fine-tune a detector: boxes around objects.",
    "instances": "Fine-tune an instance segmenter: a mask for each object.",
}
EXAMPLES = {
    "classification": ("--dataset photos", "swin-large-flowers102 --output_dir runs/flowers"),
    "segmentation": ("--dataset scenes", "--dataset rooms --class_names wall floor door"),
    "detection": ("--dataset scenes --architecture conditional_detr", "--dataset cells"),
    "instances": ("--dataset scenes --architecture mask2former", "swin-base-cascade-coco --data_dir data/coco"),
}


def arguments(word: str) -> tuple[type, ...]:
    """The dataclasses of a task's settings: data, task, loop, search, and the demo without data."""
    demo = DemoConfig if word == "classification" else DenseDemoConfig
    return (*TASK_SETTINGS[TASK_WORDS[word]], TrainingConfig, TuneConfig, demo)


def read(words: Sequence[str], word: str) -> Job:
    """Read the command line of a task."""
    task = TASK_WORDS[word]
    usual = {
        "learning_rate": describe_rates(task),
        "num_epochs": f" (default: {STARTS[task].num_epochs})",
        "validation_fraction": f" (default: {HELD_OUT} of a folder or Hub data, 0 of sets that go by name)",
        "output_dir": " A new folder under outputs/ if unset.",
    }
    texts = program(f"train {word}", ABOUT[word], EXAMPLES[word], defaults=usual)
    configs, given = read_command_line(arguments(word), words, texts)
    data, config, training, search, demo = configs
    if data.dataset is None:
        refuse_unused((data, config, training, search), used=["architecture"])
        return partial(run_demo, task, getattr(config, "architecture", ""), demo)
    return partial(train, task, data, config, training, search, given)


def run_demo(task: str, architecture: str, demo: DemoConfig | DenseDemoConfig) -> dict[str, object]:
    """The demo of a task."""
    from mona_peft.finetuning.study import demo as demos

    folder = Path(demo.demo_dir)
    if task == "classification":
        return demos.run_demo(demo.demo_size, folder)
    return demos.run_dense_demo(task, architecture, demo.demo_size, folder)


def train(
    task: str,
    data: SourceConfig,
    config: ModelConfig,
    training: TrainingConfig,
    search: TuneConfig,
    given: frozenset[str],
) -> dict[str, object]:
    """Load data and model, search settings if asked for, train, evaluate and write everything out.

    Args:
        task (`str`): A key of `TASK_SETTINGS`.
        data (`SourceConfig`): Settings of the data.
        config (`ModelConfig`): Settings of the task.
        training (`TrainingConfig`): Settings of the loop.
        search (`TuneConfig`): Settings of the search.
        given (`frozenset[str]`): Settings that flags or a recipe gave.
    """
    from mona_peft.finetuning.tasks.running import run

    data = with_validation(data, given)
    training = with_usual(with_launched(training, given), given, task, config.method)
    training = with_folder(training, data.dataset or "", config.method)
    if search.tune is None:
        return run(task, data, config, training)
    return run_tuned(task, data, config, training, search)


def run_tuned(
    task: str, data: SourceConfig, config: ModelConfig, training: TrainingConfig, search: TuneConfig
) -> dict[str, object]:
    """Search settings on the validation split, then train with the best of them."""
    from mona_peft.finetuning.study.tuning import require_optuna, tune
    from mona_peft.finetuning.tasks.running import make_tasks
    from mona_peft.finetuning.training.run import run_task

    require_optuna()  # before anything is loaded
    make = make_tasks(task, data, training.seed)
    config, training = tune(make, config, training, search)
    return run_task(make(config), training)


COMMANDS = {word: Command(ABOUT[word], partial(read, word=word)) for word in TASK_WORDS}
