"""Measure the costs of all methods on one task, model and batch, in turns."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from mona_peft.finetuning.environment import made_by
from mona_peft.finetuning.files import Json

from .config import CLOCKS, CostsConfig
from .measure import Timing, peak_bytes, time_interleaved
from .memory import saved_bytes
from .operations import step_operations
from .processes import process_device, process_threads, run_in_processes
from .steps import build_subjects
from .subjects import FLOOR, StartUp


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
        launches (`int`, *optional*): Operations of forward and backward pass: on a GPU, the kernels launched.
    """

    method: str
    step: Timing
    saved: int
    peak: int | None
    inference: Timing | None
    start_up: StartUp | None
    trainable: int
    launches: int | None = None


def measure_costs(config: CostsConfig) -> list[Row]:
    """Measure every method of `config`; where several processes train together, as the first of them sees it.

    Raises:
        ValueError: If model, architecture and task do not go together, or there are fewer GPUs than processes.
    """
    return run_in_processes(_measure, config)


def _measure(config: CostsConfig) -> list[Row]:
    subjects, device = build_subjects(config), process_device(config)
    rounds = (FLOOR, config.repeats, config.warmup, device, CLOCKS[config.clock])
    steps = time_interleaved({name: subject.step for name, subject in subjects.items()}, *rounds)
    saved = {name: saved_bytes(subject.loss, subject.model) for name, subject in subjects.items()}
    peak = {name: peak_bytes(subject.step, device) for name, subject in subjects.items()}
    launches = {}
    if config.launches:
        launches = {name: step_operations(each.model, each.loss, device).kernels for name, each in subjects.items()}
    inference: dict[str, Timing] = {}
    if config.inference:
        for subject in subjects.values():
            subject.model.eval()
        calls = {name: subject.infer for name, subject in subjects.items()}
        inference = time_interleaved(calls, *rounds)
    return [
        Row(
            *(name, steps[name], saved[name], peak[name], inference.get(name), subject.start_up, subject.trainable),
            launches.get(name),
        )
        for name, subject in subjects.items()
    ]


def describe_machine(config: CostsConfig) -> dict[str, object]:
    """What a reader needs to know of the machine and versions."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    machine: dict[str, object] = {"cpu": name, "threads": process_threads(config), "torch": torch.__version__}
    if config.device.startswith("cuda"):
        machine["gpu"] = torch.cuda.get_device_name(config.device)
    return machine


def as_json(config: CostsConfig, rows: list[Row]) -> dict[str, object]:
    """The results as plain values, with what made them."""
    return {
        "config": asdict(config),
        **made_by(("--output_dir",)),
        "machine": describe_machine(config),
        "rows": [_plain(row) for row in rows],
    }


def from_json(results: Json) -> list[Row]:
    """The rows that [`as_json`] gave."""
    rows = []
    for values in results["rows"]:
        timings = {name: Timing(**values[name]) if values[name] else None for name in ("step", "inference")}
        start_up = StartUp(**values["start_up"]) if values["start_up"] else None
        rows.append(Row(**{**values, **timings, "start_up": start_up}))
    return rows


def _plain(row: Row) -> dict[str, object]:
    values = {name: getattr(row, name) for name in row.__dataclass_fields__}
    return {name: value._asdict() if hasattr(value, "_asdict") else value for name, value in values.items()}
