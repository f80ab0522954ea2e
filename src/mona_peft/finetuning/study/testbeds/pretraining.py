"""Pretraining of small models on scanned digits 0 to 4, and the backbones of the scenes: a Swin and a ViT.

For the scenes the scans stand at a random place of a plain canvas, about as large in it as digits are in the scenes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PILImage
from transformers import (
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from mona_peft.finetuning.data.classification.dataset import ClassificationData
from mona_peft.finetuning.data.embedded.digits import load_pretraining_digits
from mona_peft.finetuning.models.backbones import label_maps
from mona_peft.finetuning.tasks.classification import ClassificationConfig, ClassificationTask
from mona_peft.finetuning.training import Trainer, TrainingConfig

IMAGE_SIZE = 64
CANVAS = 16
DONE = "pretraining.json"

MakeModel = Callable[[tuple[str, ...]], Any]


def small_swin(class_names: tuple[str, ...]) -> SwinForImageClassification:
    """A Swin of three stages of two blocks on a 16x16 grid of 4x4 patches, with random weights."""
    config = SwinConfig(
        image_size=IMAGE_SIZE,
        patch_size=4,
        embed_dim=32,
        depths=[2, 2, 2],
        num_heads=[2, 4, 4],
        window_size=4,
        drop_path_rate=0.0,
        initializer_range=0.1,  # the usual 0.02 is for widths of hundreds: here signals would fade
        **label_maps(class_names),
    )
    return SwinForImageClassification(config)


def small_vit(class_names: tuple[str, ...]) -> ViTForImageClassification:
    """A ViT of three blocks on a 16x16 grid of 4x4 patches, with random weights."""
    config = ViTConfig(
        image_size=IMAGE_SIZE,
        patch_size=4,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        initializer_range=0.1,
        **label_maps(class_names),
    )
    return ViTForImageClassification(config)


@dataclass(frozen=True)
class SmallBackbone:
    """How a backbone is made and pretrained.

    Args:
        make (`Callable`): Makes the classifier of its class names.
        learning_rate (`float`): Of the pretraining.
        epochs_factor (`int`): How many times as long as the Swin it takes to pretrain.
    """

    make: MakeModel
    learning_rate: float
    epochs_factor: int = 1


BACKBONES = {
    "swin": SmallBackbone(small_swin, 2e-3),
    "vit": SmallBackbone(small_vit, 1e-3, epochs_factor=2),
}


def scattered(scans: Dataset, seed: int) -> Dataset:
    """Each scan at a random place of a plain canvas."""
    rng = np.random.default_rng(seed)
    images = []
    for scan in scans["image"]:
        values = np.asarray(scan)
        top, left = rng.integers(CANVAS - values.shape[0] + 1), rng.integers(CANVAS - values.shape[1] + 1)
        canvas = np.zeros((CANVAS, CANVAS), np.uint8)
        canvas[top : top + values.shape[0], left : left + values.shape[1]] = values
        images.append(PILImage.fromarray(canvas))
    features = Features({"image": Image(), "label": ClassLabel(names=scans.features["label"].names)})
    return Dataset.from_dict({"image": images, "label": scans["label"]}, features=features)


def pretrain(name: str, data: ClassificationData, make: MakeModel, training: TrainingConfig, **recipe: Any) -> Path:
    """Pretrain a small model, unless that was done in the same folder over as many epochs.

    Args:
        name (`str`): What to call it.
        data (`ClassificationData`): Square images of digits 0 to 4.
        make (`Callable`): Makes the classifier of its class names; its configuration knows the side of the images.
        training (`TrainingConfig`): How, and where to.
        **recipe: Of `ClassificationConfig`. Mirrored digits are other signs, so nothing is mirrored.

    Returns:
        `Path`: Folder of the model.
    """
    folder = Path(training.output_dir or "")
    record = folder / DONE
    if record.exists() and json.loads(record.read_text(encoding="utf-8"))["epochs"] == training.num_epochs:
        return folder / "model"
    config = ClassificationConfig(model="", method="full", horizontal_flip=0.0, resize_ratio=1.0, **recipe)
    side = make(data.class_names).config.image_size
    size = {"height": side, "width": side}
    processor = ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    trainer = Trainer(ClassificationTask(data, config, model_factory=make, processor=processor), training)
    figures = trainer.train()
    trainer.save(figures)
    trainer.close()
    print(f"Pretrained {name} on digits 0 to 4: validation accuracy {figures['best_accuracy']:.1%}")
    record.write_text(
        json.dumps({"epochs": training.num_epochs, "accuracy": figures["best_accuracy"]}), encoding="utf-8"
    )
    return folder / "model"


def pretrain_backbone(name: str, folder: Path, swin_epochs: int) -> Path:
    """Pretrain a backbone of the scenes into `folder / name`.

    Args:
        name (`str`): A key of `BACKBONES`.
        folder (`Path`): Of all the backbones.
        swin_epochs (`int`): Epochs over the scans of 0 to 4 that the Swin gets; others get their factor of it.

    Returns:
        `Path`: Folder of the model.
    """
    backbone = BACKBONES[name]
    epochs = swin_epochs * backbone.epochs_factor
    splits = load_pretraining_digits()
    placed = DatasetDict({name: scattered(split, number) for number, (name, split) in enumerate(splits.items())})
    data = ClassificationData("digits-0-4", placed, tuple(splits["train"].features["label"].names))
    training = TrainingConfig(
        output_dir=str(folder / name),
        overwrite_output_dir=True,
        num_epochs=epochs,
        batch_size=32,
        eval_batch_size=100,
        learning_rate=backbone.learning_rate,
        warmup_epochs=min(1, epochs / 2),
        eval_epochs=max(1, epochs // 5),
        no_checkpoints=True,
        report_to=["none"],
    )
    return pretrain(name, data, backbone.make, training, crop_scale=[0.8, 1.0])
