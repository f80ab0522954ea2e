"""Photographs that come with scikit-image and scikit-learn, as a model takes them."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images
from torch import Tensor

from mona_peft.finetuning.inference.classification import LoadedClassifier


def photographs() -> list[Image.Image]:
    """Five photographs."""
    arrays = [*load_sample_images().images, data.astronaut(), data.coffee(), data.chelsea()]
    return [Image.fromarray(array) for array in arrays]


def prepare_photographs(loaded: LoadedClassifier) -> Tensor:
    """The photographs as one batch `(5, 3, H, W)`, prepared as the model was trained.

    Raises:
        ValueError: If the model has no image processor.
    """
    return loaded.to_model(torch.cat([loaded.prepare(image) for image in photographs()]))


def preparation(processor: Any) -> dict[str, Any]:
    """What has to be done to a picture: size, mean, standard deviation and the like."""
    kept = ("do_resize", "size", "do_center_crop", "crop_size", "resample", "do_rescale", "rescale_factor",
            "do_normalize", "image_mean", "image_std")  # fmt: skip
    content = processor.to_dict() if hasattr(processor, "to_dict") else vars(processor)
    return {name: content[name] for name in kept if content.get(name) is not None}
