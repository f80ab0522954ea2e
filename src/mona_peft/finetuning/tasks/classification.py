"""Image classification, one label an image or several."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers.image_processing_utils import BaseImageProcessor

from mona_peft.finetuning.data.classification.balancing import BalancedImages, class_weights, positive_weights
from mona_peft.finetuning.data.classification.dataset import (
    ClassificationData,
    ClassificationImages,
    ClassificationStream,
    arrow_column,
    stack_samples,
)
from mona_peft.finetuning.data.classification.mixing import MixedBatches
from mona_peft.finetuning.data.classification.transforms import (
    ImageSettings,
    eval_transform,
    evaluation_processor,
    train_transform,
)
from mona_peft.finetuning.data.faults import warn_of_faults
from mona_peft.finetuning.data.sources.classification import DataConfig, load_data, require_training
from mona_peft.finetuning.methods import METHODS, apply_method
from mona_peft.finetuning.metrics import MeanClassAccuracy, MultilabelMeanAveragePrecision, TopKAccuracy
from mona_peft.finetuning.models.classifier import load_classifier, load_processor
from mona_peft.finetuning.pictures.classification import (
    CONFUSION_CLASSES,
    confusion_matrix,
    draw_confusion,
    draw_mistakes,
    worst_mistakes,
)
from mona_peft.finetuning.training.loaders import eval_loader
from mona_peft.finetuning.training.task import Meter

from .base import DataTask
from .config import ClassificationConfig

#: A batch, and what is predicted of it: tensors with a row a sample.
Tensors = dict[str, torch.Tensor]


class ClassificationMeter(Meter):
    """Scores and labels of an evaluation, and the metrics over them.

    Args:
        multilabel (`bool`): Mean average precision instead of accuracies.
    """

    def __init__(self, multilabel: bool) -> None:
        self.multilabel = multilabel
        self.parts: list[Tensors] = []

    def update(self, predictions: Tensors) -> None:
        """Take in `scores` `(B, classes)`, `labels`, `loss` `(B,)` and `index` `(B,)`."""
        self.parts.append({name: tensor.cpu() for name, tensor in predictions.items()})

    @property
    def num_samples(self) -> int:
        """How many samples were taken in."""
        return sum(len(part["index"]) for part in self.parts)

    def collected(self) -> Tensors:
        """Everything taken in, in the order of the data set."""
        joined = {name: torch.cat([part[name] for part in self.parts]) for name in self.parts[0]}
        order = joined["index"].argsort()
        return {name: tensor[order] for name, tensor in joined.items()}

    def compute(self) -> dict[str, object]:
        """Loss with accuracy (top-1, top-5, mean over classes), or with mean average precision."""
        joined = {name: tensor.numpy() for name, tensor in self.collected().items()}
        scores, labels = joined["scores"], joined["labels"]
        figures: dict[str, object] = {"loss": float(joined["loss"].mean())}
        if self.multilabel:
            result = MultilabelMeanAveragePrecision(keep_in_memory=True).compute(predictions=scores, references=labels)
            return figures | {"map": result["map"]}
        top_k = TopKAccuracy(keep_in_memory=True).compute(predictions=scores, references=labels)
        by_class = MeanClassAccuracy(keep_in_memory=True).compute(predictions=scores.argmax(1), references=labels)
        return figures | top_k | by_class


class ClassificationTask(DataTask[Tensors, ClassificationData, ClassificationConfig]):
    """Fine-tune a pretrained classifier on an image data set.

    Args:
        data (`ClassificationData`): Splits and classes.
        config (`ClassificationConfig`): Model, method and recipe.
        model_factory (`Callable`, *optional*): Makes the model instead of loading a pretrained one; takes the class
            names.
        processor (`BaseImageProcessor`, *optional*): Image processor, where the model's folder has none.
        shuffle_buffer (`int`): Samples among which a stream is shuffled.
    """

    name = "image-classification"

    def __init__(
        self,
        data: ClassificationData,
        config: ClassificationConfig,
        model_factory: Callable[[tuple[str, ...]], nn.Module] | None = None,
        processor: BaseImageProcessor | None = None,
        shuffle_buffer: int = 1000,
    ) -> None:
        if data.multilabel and (config.mixup or config.cutmix or config.label_smoothing):
            raise ValueError("mixup, cutmix and label_smoothing are for data with one label an image.")
        if data.multilabel and config.balanced_sampling:
            raise ValueError("balanced_sampling is for data with one label an image; class_weights is for both.")
        super().__init__(data, config)
        self.shuffle_buffer = shuffle_buffer
        self.model_factory = model_factory
        self.best_metric = "map" if data.multilabel else "accuracy"
        self.processor = processor or load_processor(config.model)
        self.settings = ImageSettings.from_processor(self.processor)
        self.weights = self._class_weights() if config.class_weights else None
        if config.image_size is not None:
            self.settings = replace(self.settings, height=config.image_size, width=config.image_size)

    def describe(self) -> dict[str, object]:
        """Recipe and data set; of a stream, also how it is shuffled."""
        streamed = isinstance(self.data.splits.get("train"), datasets.IterableDataset)
        return super().describe() | ({"shuffle_buffer": self.shuffle_buffer} if streamed else {})

    def build_model(self) -> nn.Module:
        """Load the classifier and apply the method."""
        config, data = self.config, self.data
        if self.model_factory is not None:
            model = self.model_factory(data.class_names)
        else:
            settings = (config.drop_path, data.multilabel, config.image_size)
            model = load_classifier(config.model, data.class_names, *settings)
        return apply_method(model, config.method, **config.method_options)

    def calibrate(self, model: nn.Module, device: torch.device, batch_size: int) -> None:
        """Show the training images, as an evaluation sees them, to the method that asks for them.

        Raises:
            ValueError: If the images are a stream, or have several labels each.
        """
        name = self.config.method
        calibrate = METHODS[name].calibrate
        if calibrate is None:
            return
        rows = require_training(self.data).splits["train"]
        if self.data.multilabel or isinstance(rows, datasets.IterableDataset):
            found = "have several labels each" if self.data.multilabel else "are a stream, which may have no end"
            raise ValueError(
                f"The method {name!r} looks at all training images by class first, but these {found}; choose another "
                "method or other data."
            )
        images = ClassificationImages(
            rows, self.data, eval_transform(self.settings, self.config.resize_ratio, self.config.interpolation)
        )
        before = next(model.parameters()).device
        model.to(device)
        batches = (send_to_device(batch, device) for batch in eval_loader(images, stack_samples, batch_size))
        calibrate(model, (({"pixel_values": batch["pixel_values"]}, batch["labels"]) for batch in batches))
        model.to(before)

    def dataset(self, split: str) -> Dataset | None:
        """Transformed images of a split."""
        if split not in self.data.splits:
            return None
        config = self.config
        if split == "train":
            low, high = config.crop_scale
            transform = train_transform(self.settings, (low, high), config.horizontal_flip, config.interpolation)
        else:
            transform = eval_transform(self.settings, config.resize_ratio, config.interpolation)
        rows = self.data.splits[split]
        if isinstance(rows, datasets.IterableDataset):
            if split == "train" and config.balanced_sampling:
                self._train_labels("balanced_sampling")
            return ClassificationStream(rows, self.data, transform, self.shuffle_buffer, torch.initial_seed() % 2**32)
        images = ClassificationImages(rows, self.data, transform)
        balanced = split == "train" and config.balanced_sampling
        return BalancedImages(images, self._train_labels("balanced_sampling")) if balanced else images

    def _train_labels(self, setting: str) -> np.ndarray:
        """Labels of the training images, for a setting that counts them.

        Raises:
            ValueError: If they are a stream.
        """
        rows = require_training(self.data).splits["train"]
        if isinstance(rows, datasets.IterableDataset):
            raise ValueError(f"{setting} counts the images of each class first; a stream cannot be counted.")
        return np.array(arrow_column(rows, self.data.label_column).to_pylist(), int)

    def _class_weights(self) -> torch.Tensor:
        labels = self._train_labels("class_weights")
        return positive_weights(labels) if self.data.multilabel else class_weights(labels, len(self.data.class_names))

    def collate(self, split: str) -> Callable[[list[Tensors]], Tensors]:
        """Stack the samples; mix them, in training, if asked for."""
        config = self.config
        if split != "train" or not (config.mixup or config.cutmix):
            return stack_samples
        return MixedBatches(len(self.data.class_names), config.mixup, config.cutmix)

    def loss(self, model: nn.Module, batch: Tensors) -> torch.Tensor:
        """Cross entropy, or binary cross entropy over the labels that count."""
        logits = model(pixel_values=batch["pixel_values"]).logits
        weights = None if self.weights is None else self.weights.to(logits)
        return self._sample_losses(logits, batch["labels"], self.config.label_smoothing, weights).mean()

    def predict(self, model: nn.Module, batch: Tensors) -> Tensors:
        """Scores, labels, loss and index of each sample."""
        logits = model(pixel_values=batch["pixel_values"]).logits.float()
        loss = self._sample_losses(logits, batch["labels"])
        return {"scores": logits, "labels": batch["labels"], "loss": loss, "index": batch["index"]}

    def _sample_losses(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        smoothing: float = 0.0,
        weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Loss of each sample `(B,)` of logits `(B, classes)`."""
        if not self.data.multilabel:  # mixed batches have a row of class shares a sample
            return F.cross_entropy(logits, labels, weights, label_smoothing=smoothing, reduction="none")
        counted = labels >= 0
        target = labels.clamp(min=0).to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none", pos_weight=weights) * counted
        return losses.sum(1) / counted.sum(1).clamp(min=1)

    def metrics(self) -> dict[str, bool]:
        """The loss, which is better when smaller, and the accuracies or the mean average precision."""
        if self.data.multilabel:
            return {"map": True, "loss": False}
        top5 = ("top5_accuracy",) if len(self.data.class_names) > 5 else ()
        return dict.fromkeys(("accuracy", *top5, "mean_class_accuracy"), True) | {"loss": False}

    def meter(self, split: str) -> Meter:
        """An empty [`ClassificationMeter`]."""
        return ClassificationMeter(self.data.multilabel)

    def report(self, meter: Meter, split: str, folder: Path) -> None:
        """Draw the confusion matrix and the worst mistakes, for single-label data."""
        if self.data.multilabel or not isinstance(meter, ClassificationMeter):
            return
        found = meter.collected()
        scores, labels = found["scores"], found["labels"]
        names = self.data.class_names
        if len(names) <= CONFUSION_CLASSES:
            counts = confusion_matrix(scores.argmax(1).numpy(), labels.numpy(), len(names))
            draw_confusion(counts, names, folder / f"confusion_{split}.png")
        else:
            warnings.warn(
                f"confusion_{split}.png is left out: {len(names)} classes, drawn up to {CONFUSION_CLASSES}.",
                stacklevel=2,
            )
        rows = worst_mistakes(scores, labels, count=16)
        draw_mistakes(self.data, split, rows, scores, folder / f"mistakes_{split}.png")

    def saved_processor(self) -> BaseImageProcessor:
        """One with the model's size, mean and standard deviation, and the crop of the recipe."""
        return evaluation_processor(self.settings, self.config.resize_ratio, self.config.interpolation)


def classification_tasks(data: DataConfig, seed: int) -> Callable[[ClassificationConfig], ClassificationTask]:
    """Load the data once, and give what makes a task on it of some settings.

    Args:
        data (`DataConfig`): Where the images come from.
        seed (`int`): Draws a validation split.
    """
    loaded = require_training(load_data(data, seed))
    warn_of_faults(loaded, data.dataset)
    return partial(ClassificationTask, loaded, shuffle_buffer=data.shuffle_buffer)
