"""Semantic segmentation: UperNet or SegFormer's head on any backbone, mean IoU out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import AutoConfig
from transformers.image_processing_utils import BaseImageProcessor

from mona_peft.finetuning.data.classification.balancing import balanced_weights
from mona_peft.finetuning.data.dense.repeating import repeat_factors
from mona_peft.finetuning.data.dense.segmentation import SegmentationData
from mona_peft.finetuning.data.dense.transforms import PAD_TO, LabelMapTransform, eval_pixels, pad_batch
from mona_peft.finetuning.data.images import IGNORED
from mona_peft.finetuning.metrics.mean_iou import mean_iou, pixel_counts
from mona_peft.finetuning.models.backbones import pads_itself
from mona_peft.finetuning.models.sliding import WINDOWS, slide_logits
from mona_peft.finetuning.repository import bare_model
from mona_peft.finetuning.training.task import Meter

from .config import SemanticSegmentationConfig
from .dense import DenseTask

__all__ = ["SemanticSegmentationConfig", "SemanticSegmentationTask"]


class SegmentationSample(TypedDict):
    """An image and its label map.

    Args:
        pixels (`Tensor`): `(3, H, W)`.
        labels (`Tensor`): `(H, W)`, of a test image as large as the original.
        index (`int`): Its place in the split.
    """

    pixels: Tensor
    labels: Tensor
    index: int


class SegmentationBatch(TypedDict, total=False):
    """Images of one size and their label maps.

    Args:
        pixel_values (`Tensor`): `(B, 3, H, W)`.
        labels (`Tensor` or `list[Tensor]`): In training `(B, H, W)`, in evaluation one by one, each of its own size.
        sizes (`Tensor`, *optional*): `(B, 2)`, of test images without their padding.
        index (`Tensor`, *optional*): `(B,)`, of test images.
    """

    pixel_values: Tensor
    labels: Tensor | list[Tensor]
    sizes: Tensor
    index: Tensor


class SegmentationSamples(Dataset):
    """One split as samples.

    Args:
        data (`SegmentationData`): The data set.
        split (`str`): Of it.
        task (`SemanticSegmentationTask`): Its settings.
    """

    def __init__(self, data: SegmentationData, split: str, task: SemanticSegmentationTask) -> None:
        config = task.config
        self.data = data
        self.samples = data.splits[split]
        self.settings = task.settings
        self.transform = None
        if split == "train":
            self.transform = LabelMapTransform(
                task.settings,
                config.crop_side,
                config.scale,
                config.horizontal_flip,
                config.photometric,
                config.hue_degrees,
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> SegmentationSample:
        image, labels = self.data.read(self.samples[index])
        if self.transform is not None:
            pixels, cropped = self.transform(image, labels)
            return {"pixels": pixels, "labels": cropped, "index": index}
        return {"pixels": eval_pixels(image, self.settings), "labels": torch.from_numpy(labels), "index": index}


def collate_train(samples: list[SegmentationSample]) -> SegmentationBatch:
    """Stack crops to `pixel_values` `(B, 3, S, S)` and `labels` `(B, S, S)`."""
    return {
        "pixel_values": torch.stack([sample["pixels"] for sample in samples]),
        "labels": torch.stack([sample["labels"] for sample in samples]),
    }


def collate_eval(samples: list[SegmentationSample], multiple: int = PAD_TO) -> SegmentationBatch:
    """Pad test images to one batch; label maps stay as large as their originals, one by one.

    Args:
        samples (`list[SegmentationSample]`): Of [`SegmentationSamples`].
        multiple (`int`): The padded sides are multiples of it; with 1, an image alone is not padded at all.
    """
    pixel_values, sizes = pad_batch([sample["pixels"] for sample in samples], multiple)
    return {
        "pixel_values": pixel_values,
        "sizes": sizes,
        "labels": [sample["labels"] for sample in samples],
        "index": torch.tensor([sample["index"] for sample in samples]),
    }


class SegmentationMeter(Meter):
    """Pixel counts of an evaluation, and the metrics over them.

    Args:
        class_names (`tuple[str, ...]`): By label.
    """

    def __init__(self, class_names: tuple[str, ...]) -> None:
        self.class_names = class_names
        self.counts: list[Tensor] = []

    def update(self, predictions: dict[str, Tensor]) -> None:
        """Take in `counts` `(B, 3, classes)` as `pixel_counts` gives them."""
        self.counts.extend(predictions["counts"].cpu())

    @property
    def num_samples(self) -> int:
        """How many images were taken in."""
        return len(self.counts)

    def compute(self) -> dict[str, object]:
        """Mean IoU, mean accuracy, pixel accuracy, and the IoU of each class."""
        return mean_iou(*torch.stack(self.counts).sum(0).numpy())


class SemanticSegmentationTask(DenseTask[SegmentationBatch, SegmentationData, SemanticSegmentationConfig]):
    """Fine-tune a segmenter.

    Args:
        data (`SegmentationData`): Splits and classes.
        config (`SemanticSegmentationConfig`): Model, method and recipe.
        processor (`BaseImageProcessor`, *optional*): Image processor, where the backbone's folder has none.
    """

    name = "semantic-segmentation"

    def __init__(
        self, data: SegmentationData, config: SemanticSegmentationConfig, processor: BaseImageProcessor | None = None
    ) -> None:
        super().__init__(data, config, processor)
        backbone = AutoConfig.from_pretrained(config.model, trust_remote_code=False)
        self.padding = 1 if pads_itself(backbone) else PAD_TO
        self.weights = self._class_weights() if config.class_weights else None

    def build_model(self) -> nn.Module:
        """Build the model, whose configuration says how it is evaluated, and apply the method."""
        model = super().build_model()
        config = bare_model(model).config
        if getattr(config, WINDOWS, None) != self.config.windows:
            setattr(config, WINDOWS, self.config.windows)
        return model

    def metrics(self) -> dict[str, bool]:
        """Shares of pixels, all better when greater."""
        return dict.fromkeys(("mean_iou", "mean_accuracy", "pixel_accuracy"), True)

    def dataset(self, split: str) -> Dataset | None:
        """Samples of a split."""
        if split not in self.data.splits:
            return None
        samples = SegmentationSamples(self.data, split, self)
        if split != "train":
            return samples
        return self.repeated(samples, lambda: self.data.training_classes)

    def _class_weights(self) -> Tensor:
        """Weights under which the training pixels of every class count as much, those of repeated images as often.

        Raises:
            ValueError: If no training pixel has a label.
        """
        pixels = self.data.pixels("train")
        if not pixels.any():
            raise ValueError(
                f"class_weights counts the training pixels of each class, but none of {self.data.name} has a label; "
                "mend the label maps, or leave it out."
            )
        if self.config.repeat_threshold is not None:
            pixels = pixels * repeat_factors(self.data.training_classes, self.config.repeat_threshold)[:, None]
        return balanced_weights(pixels.sum(0))

    def collate(self, split: str) -> Callable[[list[SegmentationSample]], SegmentationBatch]:
        """Stack the crops, or pad the test images no further than their backbone needs."""
        return collate_train if split == "train" else partial(collate_eval, multiple=self.padding)

    def loss(self, model: nn.Module, batch: SegmentationBatch) -> Tensor:
        """Cross entropy, weighted if asked for; UperNet adds 0.4 times that of its auxiliary head."""
        labels = batch["labels"]
        assert isinstance(labels, Tensor), "a training batch"
        if (labels != IGNORED).any():
            weights = {} if self.weights is None else {"class_weights": self.weights.to(labels.device)}
            return model(pixel_values=batch["pixel_values"], labels=labels, **weights).loss
        # The mean over no pixel is not a number; zero, but with a gradient for every parameter, as processes expect.
        return 0 * model(pixel_values=batch["pixel_values"], labels=torch.zeros_like(labels)).loss

    def predict(self, model: nn.Module, batch: SegmentationBatch) -> dict[str, Tensor]:
        """Pixel counts `(B, 3, classes)` of each image at its original size."""
        counts = []
        for logits, labels in zip(self.logits(model, batch), batch["labels"], strict=True):
            full = F.interpolate(logits[None], size=labels.shape, mode="bilinear", align_corners=False)
            counts.append(pixel_counts(full[0].argmax(0), labels, len(self.data.class_names), IGNORED))
        return {"counts": torch.stack(counts), "index": batch["index"]}

    def logits(self, model: nn.Module, batch: SegmentationBatch) -> list[Tensor]:
        """Logits `(classes, H, W)` of each image at its test size, without its padding."""
        config, pixel_values = self.config, batch["pixel_values"]
        if config.windows is not None:
            sizes = batch["sizes"].tolist()
            return [
                slide_logits(model, pixels[:, :height, :width], *config.windows)
                for pixels, (height, width) in zip(pixel_values, sizes, strict=True)
            ]
        logits = model(pixel_values=pixel_values).logits.float()
        return [row[:, :height, :width] for row, (height, width) in zip(logits, batch["sizes"].tolist(), strict=True)]

    def meter(self, split: str) -> SegmentationMeter:
        """An empty [`SegmentationMeter`]."""
        return SegmentationMeter(self.data.class_names)
