"""The tiny models of the conformance tests, called by position, so that timm's go with transformers'."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import nn
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    SwinBackbone,
    SwinForImageClassification,
    ViTForImageClassification,
)

from .models import features, swin_config, vit_config


@dataclass(frozen=True)
class Subject:
    """One tiny model, for images of 32x32.

    Args:
        make: Builds it, with a number of classes.
        head: Name of its head; empty for a backbone.
        targets: Suffixes of the linear layers that PEFT's own methods adapt.
        norm: Suffix of a norm outside the adapters' reach.
    """

    make: Callable[[int], nn.Module]
    head: str
    targets: tuple[str, ...]
    norm: str

    def build(self, seed: int = 0, classes: int = 3) -> nn.Module:
        torch.manual_seed(seed)
        return self.make(classes).eval()

    @property
    def modules_to_save(self) -> list[str] | None:
        return [self.head] if self.head else None


def _dinov2(classes: int) -> nn.Module:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    return Dinov2ForImageClassification(Dinov2Config(**sizes, num_labels=classes, drop_path_rate=0.0))


def _timm_vit(classes: int) -> nn.Module:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", num_classes=classes, **sizes)


def _swin(classes: int) -> nn.Module:
    return SwinForImageClassification(swin_config(num_labels=classes))


def _vit(classes: int) -> nn.Module:
    return ViTForImageClassification(vit_config(num_labels=classes, image_size=32))


def _backbone(classes: int) -> nn.Module:
    return SwinBackbone(swin_config(out_features=["stage1", "stage2"]))


def _norm_of_backbone() -> str:
    """Its parts are in a module of their own but for the first releases of transformers 5."""
    return "swin.embeddings.norm" if hasattr(_backbone(3), "swin") else "embeddings.norm"


#: Query and value, by the names of transformers 5.0 and of later releases.
LINEAR = ("query", "value", "q_proj", "v_proj")

SUBJECTS = {
    "swin": Subject(_swin, "classifier", LINEAR, "swin.layernorm"),
    "vit": Subject(_vit, "classifier", LINEAR, "vit.layernorm"),
    "dinov2": Subject(_dinov2, "classifier", LINEAR, "dinov2.layernorm"),
    "timm-vit": Subject(_timm_vit, "head", ("qkv",), "norm"),
    "backbone": Subject(_backbone, "", LINEAR, _norm_of_backbone()),
}


def outputs(model: nn.Module, x: torch.Tensor, **call: Any) -> torch.Tensor:
    """One tensor that tells outputs apart, whatever the model returns."""
    output = model(x, **call)
    return output if isinstance(output, torch.Tensor) else features(output)


@torch.no_grad()
def run(model: nn.Module, x: torch.Tensor, **call: Any) -> torch.Tensor:
    return outputs(model, x, **call)
