"""The embedded benchmark: a small Swin pretrained on scanned digits 0 to 4, adapted to 5 to 9 from a few scans.

Data, recipe and model are the demo's; see `mona_peft.finetuning.study.digits_demo`.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mona_peft.finetuning.files import write_json
from mona_peft.finetuning.tasks.classification import ClassificationTask
from mona_peft.finetuning.training import Task, TrainingConfig

from .digits_demo import DemoSize, demo_task, digits_data, pretrain
from .testbed import Benchmark
from .variants import Variant

# The paper's sizes for Swin-L divided by 4; the small Swin's first stage has a sixth of Swin-L's channels.
DIGITS_OPTIONS: dict[str, dict[str, Any]] = {
    "bottleneck": {"bottleneck_dim": 16},
    "lora": {"r": 16},
    "adaptformer": {"bottleneck_dim": 16},
    "lorand": {"lorand_beta": 2},
    "mona": {"bottleneck_dim": 16},
    "convpass": {"bottleneck_dim": 2},
    "sct": {"num_channels": 24},
}

# Widths of the first stage of the small Swin in three sizes; the middle one is the demo's.
BACKBONE_WIDTHS = {"small": 16, "base": 32, "large": 48}
DEFAULT_BACKBONE = "base"

# The grid spans what full fine-tuning wants and what methods with few parameters want, a hundred times apart.
DIGITS_SIZES = {
    "full": DemoSize(
        pretraining_epochs=12, epochs=40, shots=8, seeds=5, learning_rates=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    ),
    "tiny": DemoSize(pretraining_epochs=1, epochs=2, shots=2, seeds=2, learning_rates=(1e-3, 1e-2)),
}


class DigitsBenchmark(Benchmark):
    """Adaptation of a small Swin to scanned digits it has not seen.

    Args:
        size (`DemoSize`): Shots and epochs.
    """

    title = "scanned digits 5 to 9, small Swin pretrained on 0 to 4"

    def __init__(self, size: DemoSize) -> None:
        self.size = size
        self.seeds = size.seeds
        self.learning_rates = size.learning_rates

    def describe(self) -> dict[str, Any]:
        """Everything of the size but what a plan decides."""
        size = {name: value for name, value in asdict(self.size).items() if name not in ("seeds", "learning_rates")}
        return {"benchmark": "digits", **size}

    def prepare(self, variants: list[Variant], folder: Path) -> None:
        """Pretrain each backbone that the variants need, once."""
        for backbone in dict.fromkeys(variant.backbone or DEFAULT_BACKBONE for variant in variants):
            if not (folder / backbone / "done.json").exists():
                pretrain(folder / backbone, self.size, BACKBONE_WIDTHS[backbone])
                write_json(folder / backbone / "done.json", {"embed_dim": BACKBONE_WIDTHS[backbone]})

    def task(self, variant: Variant, seed: int, folder: Path) -> Task:
        """The demo's task with the variant's method; the seed draws the labelled scans."""
        data = digits_data(seed, self.size.shots)
        model = (folder / (variant.backbone or DEFAULT_BACKBONE) / "model").resolve()
        config = demo_task(data, variant.method, str(model)).config
        return ClassificationTask(data, replace(config, method_options=variant.options))

    def training(self, learning_rate: float, seed: int) -> TrainingConfig:
        """The demo's recipe."""
        return TrainingConfig(
            num_epochs=self.size.epochs,
            batch_size=min(20, 5 * self.size.shots),
            eval_batch_size=100,
            learning_rate=learning_rate,
            warmup_epochs=self.size.epochs / 10,
            eval_epochs=max(1, self.size.epochs // 8),
            logging_steps=2,
            seed=seed,
            no_checkpoints=True,
            report_to=["none"],
            progress_bar=False,
        )
