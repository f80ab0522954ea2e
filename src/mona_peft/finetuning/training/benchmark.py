"""How fast a run is: step time, samples a second, share of time waiting for data, peak memory."""

from __future__ import annotations

import time
from typing import Any

import torch

from .loop import Trainer
from .progress import peak_memory_gib

WARMUP_STEPS = 3


def benchmark(trainer: Trainer, steps: int) -> dict[str, float]:
    """Time training steps, after a few that are not counted; nothing is logged, evaluated or saved.

    Args:
        trainer (`Trainer`): ready to train.
        steps (`int`): optimiser steps to time.

    Returns:
        `dict[str, float]`: `step_seconds` (median), `samples_per_second`, `data_wait` (share of the time), and
        `peak_memory_gib`.
    """
    trainer.model.train()
    times: list[float] = []
    waited = 0.0
    samples = 0
    batches = _endless(trainer)
    accumulation = trainer.config.gradient_accumulation_steps
    for step in range(WARMUP_STEPS + steps):
        _wait_for_device(trainer)
        started = time.perf_counter()
        step_waited = 0.0
        for _ in range(accumulation):
            asked = time.perf_counter()
            batch = next(batches)
            step_waited += time.perf_counter() - asked
            trainer.train_batch(batch)
        _wait_for_device(trainer)
        if step >= WARMUP_STEPS:
            times.append(time.perf_counter() - started)
            waited += step_waited
            samples += trainer.config.batch_size * accumulation * trainer.accelerator.num_processes
    total = sum(times)
    return {
        "step_seconds": sorted(times)[len(times) // 2],
        "samples_per_second": samples / total,
        "data_wait": waited / total,
        "peak_memory_gib": peak_memory_gib(),
    }


def format_benchmark(figures: dict[str, float], steps: int) -> str:
    """The figures in a line."""
    return (
        f"{steps} steps: {figures['step_seconds'] * 1000:.1f} ms a step (median), "
        f"{figures['samples_per_second']:.1f} samples a second, "
        f"{figures['data_wait']:.1%} of the time waiting for data, peak memory {figures['peak_memory_gib']:.2f} GiB"
    )


def _endless(trainer: Trainer) -> Any:
    """Batches of one epoch after another."""
    epoch = 0
    while True:
        if trainer.batch_sampler is not None:
            trainer.batch_sampler.epoch = epoch
        yield from trainer.loader
        epoch += 1


def _wait_for_device(trainer: Trainer) -> None:
    """Have the device finish, so that the clock tells what was done."""
    if trainer.accelerator.device.type == "cuda":
        torch.cuda.synchronize()
