"""A method's model at work: training steps and inference in the modes that can be measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .config import CostsConfig
from .processes import process_device, process_rank
from .subjects import StartUp, prepare
from .workloads import Batch, Workload, build_workload

Result = TypeVar("Result")


class Subject:
    """A model with its optimizer and batches.

    Args:
        model (`nn.Module`): With its method applied, on its device.
        workload (`Workload`): Gives batches and loss.
        config (`CostsConfig`): The modes.
        start_up (`StartUp`, *optional*): How long the method took to apply, save and load.
    """

    def __init__(
        self, model: nn.Module, workload: Workload, config: CostsConfig, start_up: StartUp | None = None
    ) -> None:
        self.workload, self.config, self.start_up = workload, config, start_up
        workload.finish(model, config.gradient_checkpointing)
        self.model = model.to(memory_format=torch.channels_last) if config.channels_last else model
        self.device = next(model.parameters()).device
        self.batch, self.test_batch = (self._place(batch) for batch in (workload.batch, workload.test_batch))
        self.single: Any = torch.compile(model, dynamic=False) if config.compile else model
        self.parallel: Any = DistributedDataParallel(self.single) if config.processes > 1 else self.single
        trainable = [p for p in model.parameters() if p.requires_grad]
        self.trainable = sum(p.numel() for p in trainable)
        self.optimizer = torch.optim.AdamW(trainable, lr=1e-5, fused=True)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.autocast == "float16")

    def _place(self, batch: Batch) -> Batch:
        placed = send_to_device(batch, self.device)
        if self.config.channels_last:
            placed["pixel_values"] = placed["pixel_values"].contiguous(memory_format=torch.channels_last)
        return placed

    def _run(self, function: Callable[[nn.Module, Batch], Result], model: nn.Module, batch: Batch) -> Result:
        dtype = getattr(torch, self.config.autocast) if self.config.autocast else None
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            return function(model, batch)

    def loss(self) -> Tensor:
        """Forward pass of this process alone."""
        return self._run(self.workload.loss, self.single, self.batch)

    def step(self) -> None:
        """A training step, with the other processes where there are any."""
        loss = self._run(self.workload.loss, self.parallel, self.batch)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()

    @torch.inference_mode()
    def infer(self) -> None:
        """Inference of this process alone."""
        self._run(self.workload.predict, self.single, self.test_batch)


def build_subjects(config: CostsConfig) -> dict[str, Subject]:
    """Make a subject of every method of `config`, in training mode.

    Raises:
        ValueError: If model, architecture and task do not go together.
    """
    device, rank = process_device(config), process_rank()
    workload = build_workload(config, rank)
    workload.base.to(device)
    subjects = {}
    for name in config.methods:
        model, start_up = prepare(name, workload.base)
        subjects[name] = Subject(model.to(device).train(), workload, config, start_up)
    torch.manual_seed(config.seed + rank)  # dropout differs between processes
    return subjects
