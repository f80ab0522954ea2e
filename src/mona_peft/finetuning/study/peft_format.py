"""Runs in the form of PEFT's own comparison of methods, the folder `method_comparison` of its repository.

One JSON file an experiment has `run_info`, `train_info` and `meta_info`; the last entry of `metrics` is of the test
split. What a study does not have is empty: tokens are not counted in images, and a run on the CPU holds no memory of
an accelerator (what a study counts is under `memory_bytes`).
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

from mona_peft.finetuning.files import Json, write_json
from mona_peft.finetuning.methods import METHODS, find_class

from .records import Record

#: Packages whose versions that comparison shows, None where a run had none.
PACKAGES = ("transformers", "peft", "datasets", "bitsandbytes", "torch", "mona-peft")


def write_comparison(folder: Path, records: Sequence[Record], settings: dict[str, object]) -> list[Path]:
    """Write a file for each run that has a place in that comparison: of an adapter, or of full fine-tuning.

    Files of earlier calls go.

    Args:
        folder (`Path`): Its own; created where missing.
        records (`Sequence[Record]`): The runs.
        settings (`dict[str, object]`): Of the testbed, as `study.json` has them.
    """
    written = []
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in folder.glob("*-lr*-seed*.json"):
        earlier.unlink()
    for record in records:
        if record.method == "full" or METHODS[record.method].config_class is not None:
            path = folder / record.key.file_name
            write_json(path, comparison_entry(record, settings))
            written.append(path)
    return written


def comparison_entry(record: Record, settings: dict[str, object]) -> dict[str, object]:
    """One run as that comparison has it."""
    name = f"{record.label}/{settings['benchmark']}-lr{record.learning_rate:g}-seed{record.seed}"
    run = {
        "created_at": record.created,
        "total_time": record.seconds,
        "experiment_name": name,
        "peft_branch": "main",
        "train_config": train_config(record, settings),
        "peft_config": peft_config(record),
        "error_msg": "",
    }
    train = {
        "accelerator_memory_reserved_avg": 0,
        "accelerator_memory_max": 0,
        "accelerator_memory_reserved_99th": 0,
        "train_time": record.seconds,
        "file_size": record.bytes_on_disk,
        "num_trainable_params": record.backbone_trainable + record.head_trainable,
        "num_total_params": record.backbone_total + record.head_trainable,
        "status": "success",
        "memory_bytes": record.memory_bytes,
        "metrics": metrics(record, settings),
    }
    versions = {f"{package}-version": record.versions.get(package) for package in PACKAGES}
    meta = {
        "model_info": {"sha": None, "created_at": None},
        "dataset_info": {settings["benchmark"]: {"sha": record.data, "created_at": None}},
        "package_info": versions,
        "system_info": {"system": platform.system(), "machine": platform.machine(), "accelerator": None},
        "pytorch_info": "",
    }
    return {"run_info": run, "train_info": train, "meta_info": meta}


def train_config(record: Record, settings: dict[str, object]) -> dict[str, object]:
    """The recipe under that comparison's names."""
    return {
        "model_id": settings["model"],
        "dtype": "float32",
        "batch_size": settings["batch_size"],
        "max_steps": settings["max_steps"],
        "eval_steps": settings["eval_steps"],
        "seed": record.seed,
        "grad_norm_clip": settings["max_grad_norm"],
        "optimizer_type": "AdamW",
        "optimizer_kwargs": {"lr": record.learning_rate, "weight_decay": settings["weight_decay"]},
        "lr_scheduler": settings["schedule"],
    }


def peft_config(record: Record) -> dict[str, object] | None:
    """The adapter's configuration as JSON values; None for full fine-tuning."""
    config_class = METHODS[record.method].config_class
    if config_class is None:
        return None
    config = find_class(config_class)(**record.options).to_dict()
    return {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}


def metrics(record: Record, settings: Json) -> list[Json]:
    """The evaluations in their order; the last is on the test split."""
    losses = {step: loss for step, loss in record.losses}
    entries: list[Json] = [
        {
            "step": step,
            "valid accuracy": value,
            "train loss": losses.get(step),
            "train samples": int(step) * settings["batch_size"],
        }
        for step, value in record.validations
    ]
    last = entries[-1] if entries else {"step": None, "train loss": None, "train samples": 0}
    kept = {name: value for name, value in last.items() if name != "valid accuracy"}
    return [*entries, {"test accuracy": record.test["accuracy"], **kept, "train total tokens": 0}]
