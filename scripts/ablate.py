"""Compare settings of Mona. Without a dataset: the ablations on scanned digits, offline.

python scripts/ablate.py --study_size tiny --groups design positions
python scripts/ablate.py swin-large-flowers102 --study_dir studies/flowers-ablations
"""

from __future__ import annotations

from mona_peft.finetuning.study.command import AblateConfig, parse_study, run_ablation


def main() -> None:
    """Parse the command line and run."""
    run_ablation(*parse_study(AblateConfig))


if __name__ == "__main__":
    main()
