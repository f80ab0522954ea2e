"""Backbones of known sizes, made from a configuration: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    PretrainedConfig,
    PreTrainedModel,
    SwinConfig,
    ViTConfig,
)

LABELS = 100

# Width, depths, heads and window of the Swin sizes (arXiv 2103.14030, section 3.3), and a tiny one for tests.
SWIN_SIZES: dict[str, dict[str, Any]] = {
    "swin-nano": {"embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
    "swin-t": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7},
    "swin-s": {"embed_dim": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24], "window_size": 7},
    "swin-b": {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": 7},
    "swin-l": {"embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48], "window_size": 7},
}

# Width, depth and heads of the ViT sizes (arXiv 2010.11929, table 1; small and tiny from arXiv 2012.12877).
VIT_SIZES: dict[str, dict[str, Any]] = {
    "vit-t": {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3},
    "vit-s": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6},
    "vit-b": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "vit-l": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
}


def model_config(name: str, image_size: int) -> PretrainedConfig:
    """Make the configuration of a classifier.

    Args:
        name (`str`): A key of `SWIN_SIZES` or `VIT_SIZES`, a path to a `config.json`, or a Hub name with a `/`.
        image_size (`int`): Height and width of its images, in pixels.

    Raises:
        ValueError: If there is no such size or file.
    """
    common: dict[str, Any] = {"image_size": image_size, "num_labels": LABELS}
    if name in SWIN_SIZES:
        return SwinConfig(**common, **SWIN_SIZES[name])
    if name in VIT_SIZES:
        size = VIT_SIZES[name]
        return ViTConfig(**common, **size, intermediate_size=4 * size["hidden_size"])
    if Path(name).exists() or "/" in name:
        return AutoConfig.from_pretrained(name, **common)
    raise ValueError(f"model={name!r} is neither one of {[*SWIN_SIZES, *VIT_SIZES]} nor a path to a configuration.")


def build_model(config: PretrainedConfig) -> PreTrainedModel:
    """Make a classifier with weights at random."""
    return AutoModelForImageClassification.from_config(config)
