"""Dense tasks on a real backbone: drawings pasted over photographs, DINOv2-S at 112 pixels with a small head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mona_peft.finetuning.tasks.dense_kinds import DENSE_KINDS

from .real import IMAGE_SIZE, OnDinov2, backbone_of, recipe, require
from .recipes import DenseTestbed

#: Of DINOv2-S.
BLOCKS = 12
#: By task, optimiser steps of a run: a detector that has taken a hundred finds next to nothing.
STEPS = {"semantic_segmentation": 100, "detection": 400}
BATCH_SIZE = 8
#: By task: the architecture, its settings, and those of the task. All maps of a ViT have the stride of its patches, so
#: the detector takes that of the last block alone and makes the coarser ones itself.
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "semantic_segmentation": (
        "segformer",
        {"decoder_hidden_size": 128},
        {"crop_side": IMAGE_SIZE, "scale": [0.9, 1.2]},
    ),
    "detection": (
        "retinanet",
        {"fpn_channels": 64, "norm_groups": 8, "anchor_scale": 3},
        {"out_indices": [BLOCKS]},
    ),
}


class CutoutsTestbed(OnDinov2, DenseTestbed):
    """A dense task on the scenes that `scripts/prepare_study.py` composes.

    Args:
        task_name (`str`): A key of `MODELS`.
        material (`Path`): Where that script wrote.

    Raises:
        ValueError: If the material is not there, or there is no model for the task.
    """

    def __init__(self, task_name: str, material: Path) -> None:
        if task_name not in MODELS:
            raise ValueError(f"The testbed 'cutouts' is for {' and '.join(MODELS)}, not for {task_name}.")
        kind = DENSE_KINDS[task_name]
        architecture, options, settings = MODELS[task_name]
        config = kind.settings(
            model=backbone_of(material),
            architecture=architecture,
            architecture_options=options,
            short_side=IMAGE_SIZE,
            long_side=IMAGE_SIZE,
            **settings,
        )
        data = kind.data_settings(dataset=str(require(material / "cutouts", "cutouts")))
        super().__init__(task_name, data, config, recipe(STEPS[task_name], BATCH_SIZE))
        self.title = (
            f"drawings pasted over photographs, {task_name.replace('_', ' ')}, DINOv2-S at {IMAGE_SIZE} pixels"
        )

    def describe(self) -> dict[str, object]:
        """Data, backbone and recipe; folders may move."""
        settings = super().describe() | {"benchmark": f"cutouts-{self.task_name}", "dataset": "cutouts"}
        sizes = {split: len(rows) for split, rows in self.load(0).splits.items()}
        return settings | {"model": Path(self.config.model).name, "split_sizes": sizes}
