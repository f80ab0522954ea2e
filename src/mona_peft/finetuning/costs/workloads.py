"""What a training step works on: a model without any method, a batch, and the loss between them."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, ViTImageProcessor

from mona_peft.finetuning.data.embedded.scenes import SceneSettings
from mona_peft.finetuning.models.backbones import find_backbone_module
from mona_peft.finetuning.models.positions import check_image_size
from mona_peft.finetuning.tasks.dense import freeze_final_norm
from mona_peft.finetuning.tasks.dense_kinds import DENSE_KINDS

from .config import CostsConfig
from .models import LABELS, build_model, model_config

#: A batch of any task: tensors, and lists of what has no common size.
Batch = dict[str, Any]


class Workload(ABC):
    """One task on one model; all methods get copies of `base` and the same batches."""

    #: The model before any method is applied, on the CPU.
    base: nn.Module
    #: A training batch and one for inference, on the CPU.
    batch: Batch
    test_batch: Batch

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The scalar loss of a training batch."""

    @abstractmethod
    def predict(self, model: nn.Module, batch: Batch) -> object:
        """What inference computes of a batch."""

    @abstractmethod
    def backbone(self, model: nn.Module) -> PreTrainedModel:
        """The transformers model inside `model` that gradient checkpointing covers."""

    def finish(self, model: nn.Module, gradient_checkpointing: bool) -> None:
        """What is left to do once a method is applied."""
        if gradient_checkpointing:
            self.backbone(model).gradient_checkpointing_enable({"use_reentrant": False})


class Classification(Workload):
    """Cross entropy of random images `(B, 3, H, W)`.

    Args:
        config (`CostsConfig`): Model, sizes and dtype.
        rank (`int`): Of this process: each has images of its own.
    """

    def __init__(self, config: CostsConfig, rank: int) -> None:
        dtype = getattr(torch, config.dtype)
        model = build_model(model_config(config.model, config.image_size))
        check_image_size(model, config.image_size)
        self.base = model.to(dtype)
        generator = torch.Generator().manual_seed(config.seed + rank)
        sizes = (config.batch_size, 3, config.image_size, config.image_size)
        images = torch.randn(sizes, generator=generator).to(dtype)
        self.batch = {"pixel_values": images, "labels": torch.arange(config.batch_size) % LABELS}
        self.test_batch = self.batch

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross entropy in float32."""
        return nn.functional.cross_entropy(self.predict(model, batch).float(), batch["labels"])

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits `(B, classes)`."""
        return model(pixel_values=batch["pixel_values"]).logits

    def backbone(self, model: nn.Module) -> PreTrainedModel:
        """The classifier, head and all."""
        return next(module for module in model.modules() if isinstance(module, PreTrainedModel))


class Dense(Workload):
    """A dense task of this package on its embedded scenes: its own model, transforms, collation and loss.

    Args:
        config (`CostsConfig`): Task, model, architecture and sizes.
        rank (`int`): Of this process: each has scenes of its own.

    Raises:
        ValueError: If the task does not know the architecture, or that does not go with the backbone or batch.
    """

    def __init__(self, config: CostsConfig, rank: int) -> None:
        kind = DENSE_KINDS[config.task]
        count = config.batch_size * config.processes
        data = kind.scenes({"train": count, "validation": count}, SceneSettings(size=config.image_size))
        settings: dict[str, Any] = {"method": "full", "architecture_options": config.architecture_options}
        settings |= dict.fromkeys(kind.sides, config.image_size)
        settings |= {"architecture": config.architecture} if config.architecture else {}
        with tempfile.TemporaryDirectory() as folder:  # the tasks build their models around a saved one
            _save(build_model(model_config(config.model, config.image_size)), Path(folder))
            self.task = kind.make(data, kind.settings(model=folder, **settings), ViTImageProcessor())
            base: Any = self.task.build_model()
        base.config.name_or_path = base.name_or_path = ""  # no adapter is to look for the folder
        self.base = base
        if base.config.model_type == "upernet" and config.batch_size == 1:
            raise ValueError("batch_size=1, but UperNet's batch norms need two images of a 1x1 map: --batch_size 2.")
        numbers = range(rank * config.batch_size, (rank + 1) * config.batch_size)
        torch.manual_seed(config.seed + rank)
        self.batch, self.test_batch = (self._collate(split, numbers) for split in ("train", "validation"))

    def _collate(self, split: str, numbers: range) -> Batch:
        dataset = self.task.dataset(split)
        assert dataset is not None, "the scenes have this split"
        return self.task.collate(split)([dataset[number] for number in numbers])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The task's own."""
        return self.task.loss(model, batch)

    def predict(self, model: nn.Module, batch: Batch) -> object:
        """What the task gives its meter, so post-processing is included."""
        return self.task.predict(model, batch)

    def backbone(self, model: nn.Module) -> PreTrainedModel:
        """The backbone alone: neck and heads are not checkpointed."""
        return find_backbone_module(model)[1]

    def finish(self, model: nn.Module, gradient_checkpointing: bool) -> None:
        """What the tasks do after they have applied a method."""
        freeze_final_norm(model)
        super().finish(model, gradient_checkpointing)


def _save(model: nn.Module, folder: Path) -> None:
    """Save as `save_pretrained` does, which writes in the first of several processes alone."""
    module: Any = model
    module.config.save_pretrained(folder)
    save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})


def build_workload(config: CostsConfig, rank: int = 0) -> Workload:
    """Make the workload of a configuration.

    Args:
        config (`CostsConfig`): See there.
        rank (`int`): Of this process.

    Raises:
        ValueError: If model, architecture and task do not go together.
    """
    torch.manual_seed(config.seed)
    return (Dense if config.dense else Classification)(config, rank)
