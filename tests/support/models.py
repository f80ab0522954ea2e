"""Tiny local models for the tests, and helpers to compare them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from packaging.version import Version
from torch import nn
from transformers import (
    SwinBackbone,
    SwinConfig,
    SwinForImageClassification,
    SwinModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)
from transformers.integrations.peft import MIN_PEFT_VERSION


def swin_config(**changes: Any) -> SwinConfig:
    values: dict[str, Any] = dict(
        image_size=32,
        patch_size=2,
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
        drop_path_rate=0.0,
        num_labels=5,
    )
    return SwinConfig(**values | changes)


def vit_config(**changes: Any) -> ViTConfig:
    values: dict[str, Any] = dict(
        image_size=32,
        patch_size=4,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=5,
    )
    return ViTConfig(**values | changes)


@dataclass(frozen=True)
class Tiny:
    """One model of the matrix and what it can do.

    Args:
        cls: Its class.
        config: Makes its configuration.
        head: Name of its head, empty for a bare backbone.
        blocks: Number of its blocks.
        call: Arguments of every call, for images of another size than the configuration's.
    """

    cls: type
    config: Any
    head: str
    blocks: int
    call: tuple[tuple[str, Any], ...] = ()

    def build(self, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        return self.cls(self.config()).eval()

    @property
    def modules_to_save(self) -> list[str] | None:
        return [self.head] if self.head else None


TINY_MODELS = {
    "swin-classifier": Tiny(SwinForImageClassification, swin_config, "classifier", 4),
    "swin-model": Tiny(SwinModel, swin_config, "", 4),
    "swin-backbone": Tiny(SwinBackbone, lambda: swin_config(out_features=["stage1", "stage2"]), "", 4),
    "vit-classifier": Tiny(
        ViTForImageClassification, vit_config, "classifier", 3, (("interpolate_pos_encoding", True),)
    ),
    "vit-model": Tiny(ViTModel, vit_config, "", 3, (("interpolate_pos_encoding", True),)),
}


def images(batch: int = 2, height: int = 32, width: int = 32, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def randomise(model: nn.Module, marker: str = "mona_", std: float = 0.1, seed: int = 3) -> None:
    """Give every adapter parameter a random value, so that each has an effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if marker in name:
                noise = torch.randn(parameter.shape, generator=generator) * std
                parameter.add_(noise.to(parameter))


def features(output: Any) -> torch.Tensor:
    """One tensor that tells outputs apart, whatever the model returns."""
    if getattr(output, "logits", None) is not None:
        return output.logits
    if getattr(output, "feature_maps", None) is not None:
        return torch.cat([f.flatten() for f in output.feature_maps])
    return output.last_hidden_state


@torch.no_grad()
def predict(model: nn.Module, x: torch.Tensor, **call: Any) -> torch.Tensor:
    return features(model(pixel_values=x, **call))


def feed_forward(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The layers of the MLP, of which older releases have the residual addition inside the second module."""
    if hasattr(block, "mlp"):
        return block.mlp(x)
    return block.output.dense(block.intermediate(x))


def transformers_accepts_peft() -> bool:
    """Whether transformers' own adapter methods take the installed PEFT: 5.24 wants 0.22, which is not released."""
    return Version(version("peft")) >= Version(MIN_PEFT_VERSION)
