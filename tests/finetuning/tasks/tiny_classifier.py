"""A tiny pretrained Swin in a folder, and runs on the digits with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import SwinForImageClassification, ViTImageProcessor

from mona_peft.finetuning.data.sources.classification import DataConfig
from mona_peft.finetuning.tasks.classification import ClassificationConfig
from mona_peft.finetuning.tasks.running import run
from mona_peft.finetuning.training import TrainingConfig
from tests.support.models import swin_config


def write_classifier(folder: Path) -> Path:
    """Save a Swin of random weights with seven classes, and its processor."""
    torch.manual_seed(0)
    model = SwinForImageClassification(swin_config(patch_size=4, num_labels=7, initializer_range=0.2))
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def configs(
    model: Path, output_dir: Path | None, method: str = "mona", **changes: Any
) -> tuple[DataConfig, ClassificationConfig, TrainingConfig]:
    """Settings of a run of a few steps."""
    data = DataConfig(dataset="digits", shots=4)
    classification = ClassificationConfig(
        model=str(model),
        method=method,
        method_options='{"bottleneck_dim": 4}' if method == "mona" else "{}",
        drop_path=0.1,
        crop_scale=[0.7, 1.0],
        resize_ratio=1.0,
    )
    training = TrainingConfig(
        **{
            "output_dir": str(output_dir) if output_dir else None,
            "num_epochs": 2,
            "batch_size": 6,
            "eval_batch_size": 100,
            "learning_rate": 5e-3,
            "report_to": ["none"],
            "progress_bar": False,
            "logging_steps": 1,
            "cpu": True,
            **changes,
        }
    )
    return data, classification, training


def as_flags(*settings: Any) -> list[str]:
    """Settings as a command line."""
    words = []
    for config in settings:
        for name, value in vars(config).items():
            if value is None or value == []:
                continue
            items = value if isinstance(value, list) else [value]
            words += [f"--{name}", *(json.dumps(item) if isinstance(item, dict) else str(item) for item in items)]
    return words


def train_classifier(data: DataConfig, config: ClassificationConfig, training: TrainingConfig) -> dict[str, object]:
    """Train as the command does, and give what is in `metrics.json`."""
    return run("classification", data, config, training)
