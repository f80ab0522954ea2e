"""Photographs that come with scikit-image and scikit-learn."""

from __future__ import annotations

from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images


def photographs() -> list[Image.Image]:
    """Five photographs."""
    arrays = [*load_sample_images().images, data.astronaut(), data.coffee(), data.chelsea()]
    return [Image.fromarray(array) for array in arrays]
