"""Fine-tune an image classifier. Without a dataset: the demo on scanned digits, offline.

python scripts/train_classification.py --demo_size tiny
accelerate launch scripts/train_classification.py swin-large-flowers102 --output_dir runs/flowers
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mona_peft.finetuning.data.sources.classification import DataConfig
from mona_peft.finetuning.settings import parse_arguments, refuse_unused
from mona_peft.finetuning.study.demo import DemoConfig, run_demo
from mona_peft.finetuning.tasks.classification import ClassificationConfig, train_classifier
from mona_peft.finetuning.training.config import TrainingConfig

ARGUMENTS = (DataConfig, ClassificationConfig, TrainingConfig, DemoConfig)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Parse the command line and run."""
    data, classification, training, demo = parse_arguments(ARGUMENTS, arguments)
    if data.dataset is None:
        refuse_unused((data, classification, training))
        return run_demo(demo.demo_size, Path(demo.demo_dir))
    return train_classifier(data, classification, training)


if __name__ == "__main__":
    main()
