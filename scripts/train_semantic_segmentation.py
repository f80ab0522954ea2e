r"""Fine-tune a semantic segmenter. Without a dataset: the demo on composed scenes, offline.

python scripts/train_semantic_segmentation.py --demo_size tiny
accelerate launch scripts/train_semantic_segmentation.py \
    swin-large-upernet-ade20k --data_dir data/ADEChallengeData2016 --output_dir runs/ade20k
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mona_peft.finetuning.data.sources.dense import SegmentationDataConfig, load_segmentation
from mona_peft.finetuning.settings import parse_arguments, refuse_unused
from mona_peft.finetuning.study.demo import DenseDemoConfig, run_dense_demo
from mona_peft.finetuning.tasks.semantic_segmentation import SemanticSegmentationConfig, SemanticSegmentationTask
from mona_peft.finetuning.training.config import TrainingConfig
from mona_peft.finetuning.training.run import run_task

ARGUMENTS = (SegmentationDataConfig, SemanticSegmentationConfig, TrainingConfig, DenseDemoConfig)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Parse the command line and run."""
    data, config, training, demo = parse_arguments(ARGUMENTS, arguments)
    if data.dataset is None:
        refuse_unused((data, config, training), used=["architecture"])
        return run_dense_demo("semantic_segmentation", config.architecture, demo.demo_size, Path(demo.demo_dir))
    return run_task(SemanticSegmentationTask(load_segmentation(data), config), training)


if __name__ == "__main__":
    main()
