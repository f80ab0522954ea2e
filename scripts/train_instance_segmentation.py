r"""Fine-tune an instance segmenter. Without a dataset: the demo on composed scenes, offline.

python scripts/train_instance_segmentation.py --demo_size tiny
accelerate launch scripts/train_instance_segmentation.py \
    swin-base-cascade-coco --data_dir data/coco --output_dir runs/coco
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mona_peft.finetuning.data.sources.dense import ObjectDataConfig, load_objects
from mona_peft.finetuning.settings import parse_arguments, refuse_unused
from mona_peft.finetuning.study.demo import DenseDemoConfig, run_dense_demo
from mona_peft.finetuning.tasks.instance_segmentation import InstanceSegmentationConfig, InstanceSegmentationTask
from mona_peft.finetuning.training.config import TrainingConfig
from mona_peft.finetuning.training.run import run_task

ARGUMENTS = (ObjectDataConfig, InstanceSegmentationConfig, TrainingConfig, DenseDemoConfig)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Parse the command line and run."""
    data, config, training, demo = parse_arguments(ARGUMENTS, arguments)
    if data.dataset is None:
        refuse_unused((data, config, training), used=["architecture"])
        return run_dense_demo("instance_segmentation", config.architecture, demo.demo_size, Path(demo.demo_dir))
    return run_task(InstanceSegmentationTask(load_objects(data), config), training)


if __name__ == "__main__":
    main()
