"""All that a GPU can tell of the costs, in one go: steps, memory, launches, Triton's kernels, compiled or not."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mona_peft.finetuning.environment import made_by
from mona_peft.finetuning.files import Json
from mona_peft.finetuning.settings import Settings, option

from .config import CostsConfig
from .report import table
from .suite import as_json, describe_machine, from_json, measure_costs

#: By title: what a run changes of the settings they share.
CASES: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16 autocast": {"autocast": "bfloat16"},
    "bfloat16": {"dtype": "bfloat16"},
    "gradient checkpointing, bfloat16 autocast": {"autocast": "bfloat16", "gradient_checkpointing": True},
    "compiled, bfloat16 autocast": {"autocast": "bfloat16", "compile": True},
    "batch 1, bfloat16 autocast": {"autocast": "bfloat16", "batch_size": 1},
}
METHODS = ("lora", "mona-plain", "mona")
FILE = "gpu.json"


@dataclass
class GpuConfig(Settings):
    """What to measure on a GPU."""

    device: str = option("cuda", "Device; on a cpu all runs but that of Triton's kernels.")
    models: list[str] = option(["swin-t", "vit-b"], "Backbones: sizes of Swin or ViT, or paths to a config.json.")
    cases: list[str] = option(list(CASES), f"Of {'; '.join(CASES)}.")
    image_size: int = option(224, "Height and width of the images, in pixels.", least=1)
    batch_size: int = option(64, "Images a step.", least=1)
    repeats: int = option(15, "Rounds that are timed.", least=1)
    warmup: int = option(5, "Rounds before them.", least=0)
    output_dir: str = option("results/benchmark", f"Where {FILE} is written.")

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [case for case in self.cases if case not in CASES]
        if unknown or not self.cases or not self.models:
            raise ValueError(f"cases={self.cases!r}, models={self.models!r}; choose cases among {list(CASES)}.")
        if torch.device(self.device).type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device is {self.device!r}, but PyTorch finds no GPU; --device cpu tries the program.")


def measure_gpu(config: GpuConfig) -> dict[str, object]:
    """Measure every case on every model, print its table, and write one file after each, so that nothing is lost.

    Args:
        config (`GpuConfig`): What to measure.

    Returns:
        `dict[str, object]`: What is in the file.
    """
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    runs: list[dict[str, object]] = []
    results: dict[str, object] = {
        "config": asdict(config),
        **made_by(("--output_dir",)),
        "runs": runs,
    }
    for model in config.models:
        for case in config.cases:
            costs = costs_of(config, model, case)
            rows = measure_costs(costs)
            print(f"\n{costs.describe()}\n\n{table(rows)}", flush=True)
            results["machine"] = describe_machine(costs)
            runs.append({"case": case, **as_json(costs, rows)})
            (folder / FILE).write_text(json.dumps(results, indent=2) + "\n")
    return results


def costs_of(config: GpuConfig, model: str, case: str) -> CostsConfig:
    """The settings of one run."""
    on_gpu = torch.device(config.device).type == "cuda"
    shared: dict[str, Any] = {
        "model": model,
        "device": config.device,
        "methods": [*METHODS, "mona-triton"] if on_gpu else list(METHODS),
        "launches": True,
    }
    shared |= {name: getattr(config, name) for name in ("image_size", "batch_size", "repeats", "warmup")}
    return CostsConfig(**shared | CASES[case])


def gpu_summary(results: Json) -> str:
    """The tables of a file of results, a run each, with the machine and the command that made it."""
    machine = results["machine"]
    place = f"{machine.get('gpu', machine['cpu'])}, torch {machine['torch']}"
    parts = [f"{place}; made by `{results['command']}`."]
    for run in results["runs"]:
        parts += [f"{CostsConfig(**run['config']).describe()}:", table(from_json(run))]
    return "\n\n".join(parts)
