"""Compare fine-tuning methods. Without a dataset: the study on scanned digits, offline.

python scripts/compare.py --study_size tiny
python scripts/compare.py recipes/mona_swin_large_flowers102.yaml --study_dir studies/flowers --seeds 3
python scripts/compare.py --parameters
"""

from __future__ import annotations

from mona_peft.comparison.command import CompareConfig, StudyConfig, run_comparison
from mona_peft.data.sources import DataConfig
from mona_peft.tasks.classification import ClassificationConfig
from mona_peft.training.arguments import parse_arguments
from mona_peft.training.config import TrainingConfig


def main() -> None:
    """Parse the command line and run."""
    run_comparison(*parse_arguments([StudyConfig, CompareConfig, DataConfig, ClassificationConfig, TrainingConfig]))


if __name__ == "__main__":
    main()
