"""Tiny dense tasks on composed scenes, one for each architecture."""

from __future__ import annotations

import torch
from transformers import (
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from mona_peft.finetuning.data.embedded.scene_objects import scene_objects
from mona_peft.finetuning.data.embedded.scenes import SceneSettings
from mona_peft.finetuning.data.sources.ade20k import scene_segmentation
from mona_peft.finetuning.tasks.detection import DetectionConfig, DetectionTask
from mona_peft.finetuning.tasks.instance_segmentation import InstanceSegmentationConfig, InstanceSegmentationTask
from mona_peft.finetuning.tasks.semantic_segmentation import SemanticSegmentationConfig, SemanticSegmentationTask
from mona_peft.finetuning.training import TrainingConfig

SCENES = SceneSettings(size=64)
SIZES = {"train": 6, "validation": 5}
METHOD_OPTIONS = {"mona": {"bottleneck_dim": 4}, "lora": {"r": 2}}

DETR = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,  # with one, Conditional DETR has layers that it never calls
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "num_queries": 8,
    "dropout": 0.0,  # its draws depend on the memory layout, which tests vary
}
HEADS = {"box_convs": 1, "box_features": 16, "mask_convs": 1, "rois_per_image": 16}
ARCHITECTURE_OPTIONS = {
    "upernet": {"hidden_size": 16, "auxiliary_channels": 8},
    "segformer": {"decoder_hidden_size": 16},
    "retinanet": {"fpn_channels": 16},
    "detr": DETR,
    "conditional_detr": DETR,
    "cascade_mask_rcnn": {"fpn_channels": 16, "proposals": 20, "anchor_scale": 4, "heads": HEADS},
    "mask2former": {
        "feature_size": 32,  # its group norms have 32 groups
        "mask_feature_size": 16,
        "hidden_dim": 32,
        "encoder_feedforward_dim": 16,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "num_attention_heads": 2,
        "dim_feedforward": 16,
        "num_queries": 8,
        "train_num_points": 64,
    },
}
ARCHITECTURES = tuple(ARCHITECTURE_OPTIONS)
SEMANTIC = ("upernet", "segformer")
INSTANCE = ("cascade_mask_rcnn", "mask2former")


def write_swin(folder, embed_dim=8):
    """A random Swin classifier of four stages, with its processor."""
    torch.manual_seed(1)
    config = SwinConfig(
        image_size=64,
        patch_size=2,
        embed_dim=embed_dim,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 2, 4],
        window_size=4,
        drop_path_rate=0.1,
        initializer_range=0.2,
    )
    return _write(SwinForImageClassification(config), folder)


def write_vit(folder):
    """A random ViT classifier of four blocks, with its processor."""
    torch.manual_seed(1)
    config = ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.2,
    )
    return _write(ViTForImageClassification(config), folder)


def _write(model, folder):
    model.save_pretrained(folder)
    size = {"height": 64, "width": 64}
    ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)
    return folder


def tiny_task(architecture, backbone, method="mona", data=None, **changes):
    """A task of the architecture on 6 training and 5 validation scenes."""
    settings = {
        "model": str(backbone),
        "architecture": architecture,
        "architecture_options": ARCHITECTURE_OPTIONS[architecture],
        "method": method,
        "method_options": METHOD_OPTIONS.get(method, {}),
        "short_side": 64,
        "long_side": 64,
        **changes,
    }
    if architecture in SEMANTIC:
        config = SemanticSegmentationConfig(**{"crop_side": 64, **settings})
        return SemanticSegmentationTask(data or scene_segmentation(SIZES, SCENES), config)
    if architecture in INSTANCE:
        return InstanceSegmentationTask(data or scene_objects(SIZES, SCENES), InstanceSegmentationConfig(**settings))
    return DetectionTask(data or scene_objects(SIZES, SCENES), DetectionConfig(**settings))


def tiny_training(folder=None, **changes):
    """Settings of a short run."""
    settings = {
        "output_dir": str(folder) if folder else None,
        "num_epochs": 2,
        "batch_size": 3,
        "learning_rate": 1e-3,
        "report_to": ["none"],
        "progress_bar": False,
        "logging_steps": 1,
        "cpu": True,
        **changes,
    }
    return TrainingConfig(**settings)


def batch_of(task, split):
    """All samples of a split in one batch."""
    dataset = task.dataset(split)
    return task.collate(split)([dataset[index] for index in range(len(dataset))])
