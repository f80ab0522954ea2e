"""Evaluation over all processes, each sample counted once."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from mona_peft.training.task import Meter, Task


def evaluate(accelerator: Accelerator, task: Task, model: nn.Module, loader: DataLoader) -> Meter:
    """Run `model` over a prepared loader and give back the meter, filled alike on every process.

    Args:
        accelerator (`Accelerator`): gathers the predictions.
        task (`Task`): predicts and measures.
        model (`nn.Module`): the prepared model; its mode is as before afterwards.
        loader (`DataLoader`): a loader that `accelerator` has prepared.

    Raises:
        `RuntimeError`: if the samples counted are not those of the data set.
    """
    meter = task.meter()
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
