"""What the dense tasks share: settings of the model, and building it."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import Any, Generic, TypeVar

from torch import nn
from torch.utils.data import Dataset
from transformers.image_processing_utils import BaseImageProcessor

from mona_peft.finetuning.data.dense.repeating import RepeatedImages, repeat_factors
from mona_peft.finetuning.data.dense.transforms import DenseSettings
from mona_peft.finetuning.methods import METHODS, apply_method
from mona_peft.finetuning.models.backbones import find_backbone_module
from mona_peft.finetuning.models.building import build_model, head_paths
from mona_peft.finetuning.models.classifier import load_processor
from mona_peft.finetuning.training.task import BatchT

from .base import DataT, DataTask
from .config import DenseConfig


def image_settings(config: DenseConfig, processor: BaseImageProcessor | None = None) -> DenseSettings:
    """Sizes of `config` with the normalisation that the backbone was pretrained with.

    Args:
        config (`DenseConfig`): Sizes, and the name of the backbone.
        processor (`BaseImageProcessor`, *optional*): The backbone's image processor; loaded if left out.
    """
    found: Any = processor or load_processor(config.model)  # of some class that has these
    mean, std = tuple(found.image_mean), tuple(found.image_std)
    return DenseSettings(config.short_side, config.long_side, mean, std)


DenseConfigT = TypeVar("DenseConfigT", bound=DenseConfig)


class DenseTask(DataTask[BatchT, DataT, DenseConfigT], Generic[BatchT, DataT, DenseConfigT]):
    """Base of the dense tasks.

    Args:
        data (`DataSet`): Splits and classes.
        config (`DenseConfig`): Model, method and recipe.
        processor (`BaseImageProcessor`, *optional*): Image processor, where the backbone's folder has none.
    """

    def __init__(self, data: DataT, config: DenseConfigT, processor: BaseImageProcessor | None = None) -> None:
        super().__init__(data, config)
        self.best_metric = config.metric
        self.settings = image_settings(config, processor)

    def build_model(self) -> nn.Module:
        """Build the model around the pretrained backbone and apply the method."""
        return build_dense_model(self.config, self.data.class_names)

    def repeated(self, samples: Dataset, classes: Callable[[], Sequence[Set[int]]]) -> Dataset:
        """The training samples, those with rare classes repeated where the settings ask for it.

        Args:
            samples (`Dataset`): Of the training split.
            classes (`Callable`): Gives the classes in each sample; called where they are needed.
        """
        threshold = self.config.repeat_threshold
        return samples if threshold is None else RepeatedImages(samples, repeat_factors(classes(), threshold))

    def saved_processor(self) -> BaseImageProcessor:
        """One that resizes and normalises as this task does."""
        return self.settings.processor()


def build_dense_model(config: DenseConfig, class_names: Sequence[str]) -> nn.Module:
    """Build the model and apply the method.

    Args:
        config (`DenseConfig`): What to build.
        class_names (`Sequence[str]`): By label.

    Raises:
        ValueError: If the method has to see labelled images first.
    """
    if METHODS[config.method].calibrate is not None:
        raise ValueError(
            f"The method {config.method!r} has to see images with one label each before it trains, which dense "
            "prediction does not have; choose another."
        )
    model = build_model(
        config.architecture,
        config.model,
        class_names,
        config.out_indices,
        config.drop_path,
        **config.architecture_options,
    )
    prepared = apply_method(model, config.method, head=head_paths(model), **config.method_options)
    freeze_final_norm(model)
    if config.freeze_patch_embedding:
        freeze_patch_embedding(model)
    if config.gradient_checkpointing:
        # Non-reentrant: the reentrant kind gives no gradients behind inputs that need none, as a frozen stem's output.
        find_backbone_module(model)[1].gradient_checkpointing_enable({"use_reentrant": False})
    return prepared


def freeze_final_norm(model: nn.Module) -> None:
    """Leave out of training the norm of the backbone's last hidden state, which no feature map passes.

    Several processes wait for a gradient of every parameter that trains, and this one never gets any.
    """
    for child in find_backbone_module(model)[1].children():
        norm = getattr(child, "layernorm", None)
        if isinstance(norm, nn.LayerNorm):
            norm.requires_grad_(False)


def freeze_patch_embedding(model: nn.Module) -> None:
    """Leave out of training the projection of the patches and the norm after it, as mmdetection's `frozen_stages=1`.

    Raises:
        ValueError: If the backbone has no patch embedding under a known name.
    """
    _, backbone = find_backbone_module(model)
    parts = {f"embeddings.{name}" for name in ("patch_embeddings", "norm")}
    found = [module for path, module in backbone.named_modules() if path.endswith(tuple(parts))]
    if not found:
        raise ValueError(
            f"freeze_patch_embedding is set, but {type(backbone).__name__} has no embeddings.patch_embeddings to "
            "freeze; leave the setting out."
        )
    for module in found:
        module.requires_grad_(False)
