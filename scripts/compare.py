"""Compare fine-tuning methods. Without a dataset: the study on scanned digits, or scenes of them, offline.

python scripts/compare.py --study_size tiny
python scripts/compare.py swin-large-flowers102 --study_dir studies/flowers --seeds 3
python scripts/compare.py --task semantic_segmentation --study_dir outputs/scenes
python scripts/compare.py --parameters
"""

from __future__ import annotations

from mona_peft.finetuning.study.command import CompareConfig, parse_study, run_comparison


def main() -> None:
    """Parse the command line and run."""
    run_comparison(*parse_study(CompareConfig))


if __name__ == "__main__":
    main()
