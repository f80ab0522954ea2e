"""What every loaded model has in common: the model, its image processor, and how images reach it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import nn

from mona_peft.finetuning.repository import bare_model


class Loaded(NamedTuple):
    """A model ready to predict, and its image processor; subclasses know what its outputs are.

    Args:
        model (`nn.Module`): In evaluation mode, head and label names included.
        processor (`Any`): Prepares images as they were when the model was evaluated.
    """

    model: nn.Module
    processor: Any

    def predict(self, images: Iterable[Image.Image], *args: Any, **kwargs: Any) -> list[Any]:
        """What is in each image.

        Raises:
            TypeError: If the model is no classifier, segmenter or detector.
        """
        raise TypeError(f"{type(self.bare_model()).__name__} gives no labels; call the model itself.")

    def bare_model(self) -> Any:
        """The model inside the `PeftModel`, adapters in place."""
        return bare_model(self.model)

    def to_model(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels where the model is, in its type."""
        parameter = next(self.model.parameters())
        return pixels.to(parameter.device, parameter.dtype)
