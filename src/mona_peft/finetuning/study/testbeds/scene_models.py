"""The dense models that are trained on the scenes, each small enough for a CPU, and their recipes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from mona_peft.finetuning.data.embedded.scenes import SceneSettings
from mona_peft.finetuning.models.architectures import architectures_for

SCENES = SceneSettings(size=64, max_objects=2, object_share=(0.4, 0.65), dark_ink_share=0.0, brightness=0.4)


@dataclass(frozen=True)
class SceneModel:
    """One architecture on the scenes.

    Args:
        title (`str`): What to call it in tables.
        steps (`int`): Optimiser steps of a run at full size.
        learning_rates (`tuple[float, ...]`): The grid of every method at full size.
        options (`dict`): Of the architecture.
        settings (`dict`): Further settings of the task.
        backbone (`str`): A key of `pretraining.BACKBONES`.
        train_scenes (`int`): Scenes to train on at full size.
    """

    title: str
    steps: int
    learning_rates: tuple[float, ...]
    options: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    backbone: str = "swin"
    train_scenes: int = 640


# All models are narrow, and several get wider initial weights than the usual 0.02, which is made for hundreds of
# channels: signals would fade, and under batch norm, which hides the scale of the weights before it, every step of
# Adam would turn them into others.

SEGMENTATION = {"crop_side": SCENES.size, "scale": [0.9, 1.2]}

# In DETR's losses boxes outweigh classes so far that on the scenes nearly all boxes were right and half of the classes
# wrong, and Mona no better than a fixed backbone; with weights of one both are learnt.
DETR = {
    "d_model": 64,
    "encoder_layers": 1,
    "decoder_layers": 3,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_queries": 10,
    "dropout": 0.0,
    "auxiliary_loss": True,
    "bbox_loss_coefficient": 1,
    "giou_loss_coefficient": 1,
    "init_std": 0.1,
}

# The one map it takes is 16x16 on the ViT, 4x4 on the small Swin.
CONDITIONAL_DETR = SceneModel(
    "Conditional DETR on ViT",
    steps=1200,
    learning_rates=(1e-3, 2e-3),
    options=DETR,
    backbone="vit",
    train_scenes=8000,
)

#: By architecture.
MODELS = {
    "upernet": SceneModel(
        "UperNet",
        steps=500,
        learning_rates=(3e-3, 1e-2),
        # Dropping one of so few channels takes away too much.
        options={
            "hidden_size": 32,
            "auxiliary_channels": 16,
            "head_init": "normal",
            "initializer_range": 0.1,
            "head_dropout": 0.0,
        },
        settings=SEGMENTATION,
    ),
    "segformer": SceneModel(
        "SegFormer's head on ViT",
        steps=500,
        learning_rates=(3e-3, 1e-2),
        options={"decoder_hidden_size": 64},
        settings=SEGMENTATION,
        backbone="vit",
    ),
    # On all three stages of the small Swin: its digits are as small as the finest anchors.
    "retinanet": SceneModel(
        "RetinaNet",
        steps=1200,
        learning_rates=(3e-3, 1e-2),
        options={"fpn_channels": 32, "norm_groups": 8},
        settings={"out_indices": [1, 2, 3]},
    ),
    "detr": replace(CONDITIONAL_DETR, title="DETR on ViT", steps=4000, learning_rates=(3e-4, 1e-3, 2e-3)),
    "conditional_detr": CONDITIONAL_DETR,
    "cascade_mask_rcnn": SceneModel(
        "Cascade Mask R-CNN",
        steps=300,
        learning_rates=(3e-3, 1e-2),
        options={
            "fpn_channels": 32,
            "proposals": 64,
            "anchor_scale": 4,
            "heads": {"box_convs": 1, "box_features": 64, "mask_convs": 2, "rois_per_image": 32},
        },
    ),
    "mask2former": SceneModel(
        "Mask2Former",
        steps=1000,
        learning_rates=(1e-3, 3e-3),
        options={
            "feature_strides": [4, 8, 16],
            "feature_size": 64,
            "mask_feature_size": 32,
            "hidden_dim": 64,
            "encoder_layers": 1,
            "encoder_feedforward_dim": 64,
            "decoder_layers": 3,
            "dim_feedforward": 128,
            "num_attention_heads": 4,
            "num_queries": 10,
            "train_num_points": 512,
            "init_std": 0.1,
        },
        train_scenes=8000,
    ),
}


def scene_model(task: str, architecture: str) -> SceneModel:
    """The model of an architecture that is to solve a task.

    Raises:
        ValueError: If it is none of the task's.
    """
    if architecture not in architectures_for(task):
        raise ValueError(f"Unknown architecture {architecture!r}; choose one of {', '.join(architectures_for(task))}.")
    return MODELS[architecture]
