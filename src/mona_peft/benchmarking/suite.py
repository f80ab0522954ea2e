"""Run the benchmark: all methods on one backbone and batch, in one process."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..options import option
from .measure import Timing, peak_bytes, saved_bytes, time_interleaved
from .models import LABELS, build_model, model_config
from .subjects import DEFAULT_SUBJECTS, FLOOR, SUBJECTS, StartUp, prepare

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "process": time.process_time}


@dataclass
class BenchmarkConfig:
    """What to measure, and where the results go."""

    model: str = option("swin-t", "A size of Swin or ViT, such as swin-t or vit-b, or a path to a config.json.")
    image_size: int = option(224, "Height and width of the images, in pixels.")
    batch_size: int = option(8, "Images a step.")
    dtype: str = option("float32", "Type of the backbone: float32, bfloat16 or float16.")
    threads: int = option(0, "Threads on the CPU; 0 leaves PyTorch's own number.")
    device: str = option("cpu", "Device, such as cpu or cuda.")
    compile: bool = option(False, "Whether to compile the models with torch.compile.")
    methods: list[str] = option(DEFAULT_SUBJECTS, "Methods to compare; the floor always takes part.")
    repeats: int = option(15, "Rounds that are timed.")
    warmup: int = option(3, "Rounds before them.")
    inference: bool = option(True, "Whether to time inference as well.")
    seed: int = option(0, "Seed of the weights and images.")
    clock: str = option("wall", "Clock: wall, or process for CPU time, on a machine that does other work as well.")

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype={self.dtype!r} must be one of {list(DTYPES)}.")
        if self.clock not in CLOCKS:
            raise ValueError(f"clock={self.clock!r} must be one of {list(CLOCKS)}.")
        unknown = set(self.methods) - set(SUBJECTS)
        if unknown:
            raise ValueError(f"methods={self.methods!r} has {sorted(unknown)}; choose among {list(SUBJECTS)}.")
        self.methods = [FLOOR, *(name for name in self.methods if name != FLOOR)]


@dataclass
class Row:
    """What one method costs.

    Args:
        method (`str`): Its name.
        step (`Timing`): A training step: forward, backward and AdamW.
        saved (`int`): Bytes autograd keeps between forward and backward, parameters left out.
        peak (`int`, *optional*): Bytes by which a step raises the memory in use.
        inference (`Timing`, *optional*): A forward pass in evaluation mode.
        start_up (`StartUp`, *optional*): Of an adapter.
        trainable (`int`): Parameters that train.
    """

    method: str
    step: Timing
    saved: int
    peak: int | None
    inference: Timing | None
    start_up: StartUp | None
    trainable: int


class Subject:
    """A model with its optimizer and batch.

    Args:
        model (`nn.Module`): Ready to train.
        images (`Tensor`): `(B, 3, H, W)`.
        labels (`Tensor`): `(B,)`.
        compiled (`bool`): Whether to compile it.
    """

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, compiled: bool) -> None:
        self.model = model
        self.run: Callable[..., Any] = torch.compile(model) if compiled else model
        self.images, self.labels = images, labels
        trainable = [p for p in model.parameters() if p.requires_grad]
        self.trainable = sum(p.numel() for p in trainable)
        self.optimizer = torch.optim.AdamW(trainable, lr=1e-5, fused=True)

    def loss(self) -> Tensor:
        """Forward pass."""
        logits = self.run(pixel_values=self.images).logits
        return nn.functional.cross_entropy(logits.float(), self.labels)

    def step(self) -> None:
        """A training step."""
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.inference_mode()
    def infer(self) -> None:
        """Forward pass without gradient."""
        self.run(pixel_values=self.images)


def run_benchmark(config: BenchmarkConfig) -> list[Row]:
    """Measure every method of `config`."""
    if config.threads:
        torch.set_num_threads(config.threads)
    device = torch.device(config.device)
    torch.manual_seed(config.seed)
    base = build_model(model_config(config.model, config.image_size)).to(device, DTYPES[config.dtype])
    images = torch.randn(config.batch_size, 3, config.image_size, config.image_size, device=device)
    labels = torch.arange(config.batch_size, device=device) % LABELS
    prepared = {name: prepare(name, base) for name in config.methods}
    subjects = {
        name: Subject(model.to(device), images.to(DTYPES[config.dtype]), labels, config.compile)
        for name, (model, _) in prepared.items()
    }
    return _measure(subjects, {name: start_up for name, (_, start_up) in prepared.items()}, config, device)


def _measure(
    subjects: dict[str, Subject], start_ups: dict[str, StartUp | None], config: BenchmarkConfig, device: torch.device
) -> list[Row]:
    for subject in subjects.values():
        subject.model.train()
    rounds = (FLOOR, config.repeats, config.warmup, device, CLOCKS[config.clock])
    steps = time_interleaved({name: subject.step for name, subject in subjects.items()}, *rounds)
    saved = {name: saved_bytes(subject.loss, subject.model) for name, subject in subjects.items()}
    peak = {name: peak_bytes(subject.step, device) for name, subject in subjects.items()}
    inference: dict[str, Timing] = {}
    if config.inference:
        for subject in subjects.values():
            subject.model.eval()
        calls = {name: subject.infer for name, subject in subjects.items()}
        inference = time_interleaved(calls, *rounds)
    return [
        Row(name, steps[name], saved[name], peak[name], inference.get(name), start_ups[name], subject.trainable)
        for name, subject in subjects.items()
    ]


def describe_machine(device: str) -> dict[str, Any]:
    """What a reader needs to know of the machine and versions."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    machine: dict[str, Any] = {"cpu": name, "threads": torch.get_num_threads(), "torch": torch.__version__}
    if device.startswith("cuda"):
        machine["gpu"] = torch.cuda.get_device_name(device)
    return machine


def as_json(config: BenchmarkConfig, rows: list[Row]) -> dict[str, Any]:
    """The results as plain values."""
    return {
        "config": asdict(config),
        "machine": describe_machine(config.device),
        "rows": [_plain(row) for row in rows],
    }


def _plain(row: Row) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in row.__dataclass_fields__}
    return {name: value._asdict() if hasattr(value, "_asdict") else value for name, value in values.items()}
