"""What the dense tasks share: settings of the model, building it, and saving it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoImageProcessor

from mona_peft.finetuning.data.dense.transforms import DenseSettings
from mona_peft.finetuning.methods import METHODS, apply_method
from mona_peft.finetuning.models.backbones import find_backbone_module
from mona_peft.finetuning.models.building import build_model, head_paths
from mona_peft.finetuning.repository import save_repository
from mona_peft.finetuning.settings import Settings, option, read_options

USAGE = """import mona_peft
from PIL import Image

loaded = mona_peft.load("{repository}")
image = Image.open("image.jpg")
found = loaded.predict([image])[0]
loaded.draw(image).save("found.png")"""


@dataclass
class DenseConfig(Settings):
    """Model, method and images, as every dense task has them."""

    model_name_or_path: str = option(
        "microsoft/swin-tiny-patch4-window7-224", "Pretrained backbone: Hub id or folder."
    )
    architecture: str = option("", "Neck and heads.")
    architecture_options: str = option("{}", "Settings of the architecture, as JSON (or a mapping, in a recipe).")
    method: str = option("mona", "Fine-tuning method, a name in mona_peft.finetuning.methods.")
    method_options: str = option("{}", 'Settings of the method, as JSON (or a mapping, in a recipe): {"r": 16}.')
    out_indices: list[int] = option(
        [], "Stages of the backbone to use, from 1; the architecture's usual ones if unset.", least=1
    )
    drop_path: float | None = option(
        None, "Stochastic depth rate of the last block; the model's own if unset.", least=0, below=1
    )
    gradient_checkpointing: bool = option(False, "Recompute the backbone in the backward pass, for less memory.")
    short_side: int = option(
        800, "Shorter side of test images, pixels, unless the longer one exceeds long_side.", least=1
    )
    long_side: int = option(1333, "Most pixels of the longer side.", least=1)
    horizontal_flip: float = option(0.5, "Probability of mirroring a training image.", least=0, most=1)


def image_settings(config: DenseConfig, processor: Any = None) -> DenseSettings:
    """Sizes of `config` with the normalisation that the backbone was pretrained with.

    Args:
        config (`DenseConfig`): sizes, and the name of the backbone.
        processor (`Any`, *optional*): the backbone's image processor; loaded if left out.
    """
    processor = processor or AutoImageProcessor.from_pretrained(config.model_name_or_path, trust_remote_code=False)
    mean, std = tuple(processor.image_mean), tuple(processor.image_std)
    return DenseSettings(config.short_side, config.long_side, mean, std)


def build_dense_model(
    config: DenseConfig, class_names: Sequence[str], default_indices: Sequence[int] | None
) -> nn.Module:
    """Build the model and apply the method.

    Args:
        config (`DenseConfig`): what to build.
        class_names (`Sequence[str]`): by label.
        default_indices (`Sequence[int]`, *optional*): stages the architecture uses where `config` names none.

    Raises:
        `ValueError`: if the method has to see labelled images first.
    """
    if config.method in METHODS and METHODS[config.method].calibrate is not None:
        raise ValueError(
            f"The method {config.method!r} has to see images with one label each before it trains, which dense "
            "prediction does not have; choose another."
        )
    model = build_model(
        config.architecture,
        config.model_name_or_path,
        class_names,
        config.out_indices or default_indices,
        config.drop_path,
        **read_options("architecture_options", config.architecture_options),
    )
    options = read_options("method_options", config.method_options)
    prepared = apply_method(model, config.method, head=head_paths(model), **options)
    freeze_final_norm(model)
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


def save_dense(model: nn.Module, settings: DenseSettings, folder: Path) -> Path:
    """Write weights, configuration and image processor to `folder`."""
    return save_repository(model, settings.processor(), folder)
