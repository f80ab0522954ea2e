"""A run of any task by the settings of a command line."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mona_peft.finetuning.data.faults import warn_of_faults
from mona_peft.finetuning.data.sources.config import DataConfig, SourceConfig
from mona_peft.finetuning.models.names import CLASSIFICATION
from mona_peft.finetuning.training.config import TrainingConfig
from mona_peft.finetuning.training.run import run_task
from mona_peft.finetuning.training.task import Task

from .classification import classification_tasks
from .config import ModelConfig
from .dense_kinds import DENSE_KINDS

#: Makes a task of its settings.
MakeTask = Callable[..., Task]


def make_tasks(task: str, data: SourceConfig, seed: int) -> MakeTask:
    """Load the data once, and give what makes a task on it of the settings of a task.

    Args:
        task (`str`): A key of `TASK_SETTINGS`.
        data (`SourceConfig`): Settings of the data.
        seed (`int`): Draws a validation split.
    """
    if task == CLASSIFICATION:
        assert isinstance(data, DataConfig)
        return classification_tasks(data, seed)
    kind = DENSE_KINDS[task]
    loaded = kind.load(data, seed)
    warn_of_faults(loaded, data.dataset)
    return partial(kind.make, loaded)


def run(task: str, data: SourceConfig, config: ModelConfig, training: TrainingConfig) -> dict[str, object]:
    """Load data and model, train, evaluate and write everything out.

    Args:
        task (`str`): A key of `TASK_SETTINGS`.
        data (`SourceConfig`): Settings of the data.
        config (`ModelConfig`): Settings of the task.
        training (`TrainingConfig`): Settings of the loop.

    Returns:
        `dict[str, object]`: What is in `metrics.json`.
    """
    return run_task(make_tasks(task, data, training.seed)(config), training)
