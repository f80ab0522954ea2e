"""A run of any task by the settings of a command line."""

from __future__ import annotations

from typing import Any

from mona_peft.finetuning.data.faults import warn_of_faults
from mona_peft.finetuning.models.names import CLASSIFICATION
from mona_peft.finetuning.training.config import TrainingConfig
from mona_peft.finetuning.training.run import run_task

from .classification import train_classifier
from .dense_kinds import DENSE_KINDS


def run(task: str, data: Any, config: Any, training: TrainingConfig) -> dict[str, object]:
    """Load data and model, train, evaluate and write everything out.

    Args:
        task (`str`): A key of `TASK_SETTINGS`.
        data (`Any`): Settings of the data.
        config (`Any`): Settings of the task.
        training (`TrainingConfig`): Settings of the loop.

    Returns:
        `dict[str, object]`: What is in `metrics.json`.
    """
    if task == CLASSIFICATION:
        return train_classifier(data, config, training)
    kind = DENSE_KINDS[task]
    loaded = kind.load(data, training.seed)
    warn_of_faults(loaded, data.dataset)
    return run_task(kind.make(loaded, config), training)
