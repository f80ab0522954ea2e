"""Evaluation over all processes, each sample counted once."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from .loaders import eval_loader
from .task import Meter, Task


def evaluate(accelerator: Accelerator, task: Task, model: nn.Module, split: str, loader: DataLoader) -> Meter:
    """Run `model` over a prepared loader and give back the meter, filled with the same on every process.

    Args:
        accelerator (`Accelerator`): Gathers the predictions.
        task (`Task`): Predicts and measures.
        model (`nn.Module`): The prepared model; its mode is as before afterwards.
        split (`str`): Of the task's data.
        loader (`DataLoader`): Over that split, prepared by `accelerator`.

    Raises:
        RuntimeError: If the samples counted are not those of the data set.
    """
    meter = task.meter(split)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for batch in loader:
                with accelerator.autocast():
                    predictions = task.predict(model, batch)
                meter.update(accelerator.gather_for_metrics(predictions, use_gather_object=task.gathers_objects))
    finally:
        model.train(was_training)
    expected = len(loader.dataset)  # type: ignore[arg-type]
    if meter.num_samples != expected:
        raise RuntimeError(f"Evaluated {meter.num_samples} samples of a data set of {expected}.")
    return meter


def evaluate_model(task: Task, model: nn.Module, split: str, batch_size: int) -> dict[str, object]:
    """Figures of a model outside training, with its number of samples.

    Args:
        task (`Task`): Its data and metrics.
        model (`nn.Module`): Any model that the task can predict with.
        split (`str`): Of the task's data.
        batch_size (`int`): Samples a process and forward pass.

    Raises:
        ValueError: If the task has no such split.
    """
    dataset = task.dataset(split)
    if dataset is None:
        raise ValueError(f"The data has no split {split!r}.")
    accelerator = Accelerator()
    loader = accelerator.prepare_data_loader(eval_loader(dataset, task.collate(split), batch_size))
    meter = evaluate(accelerator, task, model.to(accelerator.device), split, loader)
    return {**meter.compute(), "num_samples": meter.num_samples}


def number_of(figures: Mapping[str, object], name: str, otherwise: float = math.nan) -> float:
    """One of the metrics of an evaluation; one that is not defined is left out of them."""
    value = figures.get(name, otherwise)
    assert isinstance(value, int | float), name
    return value
