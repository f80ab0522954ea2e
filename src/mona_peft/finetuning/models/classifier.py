"""Image classifiers: loaded with the labels of the data, and a fresh head where those are new."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from mona_peft.blocks.head import find_head
from mona_peft.finetuning.environment import TORCHVISION
from mona_peft.finetuning.validation import first_line

from .drop_path import drop_mlp_branches, set_drop_path
from .places import find_model
from .positions import check_image_size, set_image_size
from .pretrained import load_fitting


def load_classifier(
    name_or_path: str,
    class_names: Sequence[str],
    drop_path: float | None = None,
    multilabel: bool = False,
    image_size: int | None = None,
) -> PreTrainedModel:
    """Load a pretrained classifier; its head is new unless it was trained on these very classes.

    Args:
        name_or_path (`str`): What [`find_model`] knows: a Hub id, a folder, a timm or torchvision name.
        class_names (`Sequence[str]`): By label.
        drop_path (`float`, *optional*): Stochastic depth rate of the last block, on both branches; the model's own,
            as transformers applies it, if left out.
        multilabel (`bool`): Whether an image has several labels.
        image_size (`int`, *optional*): Side of the images; the model's own if left out.

    Raises:
        ValueError: If there is no such model, its files lack weights outside the head, or `drop_path` or `image_size`
            is given for one that cannot have it.
    """
    labels = dict(enumerate(class_names))
    place = find_model(name_or_path)
    with naming_model(name_or_path):
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
    same_classes = dict(config.id2label or {}) == labels
    config.id2label, config.label2id = labels, {name: label for label, name in labels.items()}
    config.problem_type = "multi_label_classification" if multilabel else "single_label_classification"
    set_drop_path(config, drop_path)
    if image_size is not None and config.model_type == "timm_wrapper":
        config.model_args = {**(config.model_args or {}), **timm_size_arguments(config.architecture)}
    model, _ = load_fitting(AutoModelForImageClassification, place, config, trust_remote_code=False)
    if not same_classes:
        reset_head(model)
    if drop_path is not None:
        drop_mlp_branches(model)
    if image_size is not None:
        own = getattr(getattr(model, "torchvision_model", None), "image_size", image_size)
        if own != image_size:
            raise ValueError(
                f"{name_or_path} takes images of {own} pixels alone; leave image_size out, or take timm's."
            )
        set_image_size(model, image_size)
        check_image_size(model, image_size)
    if name_or_path.startswith(TORCHVISION):
        model.config.name_or_path = model.name_or_path = name_or_path
    return model


@contextmanager
def naming_model(name: str) -> Iterator[None]:
    """Say of a model that transformers cannot find, first of all, that there is no such folder.

    Raises:
        ValueError: If it cannot be found.
    """
    try:
        yield
    except OSError as error:
        if Path(name).is_dir():
            raise ValueError(f"The folder {name} holds no model: {first_line(error)}") from error
        raise ValueError(
            f"There is no folder {name} here, and no model of that name could be had from the Hub: {first_line(error)}"
        ) from error


def timm_size_arguments(architecture: str) -> dict[str, Any]:
    """Arguments with which timm's model takes images of any size: a ViT interpolates, a Swin does not insist."""
    import timm

    ways: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False})
    for arguments in ways:
        with suppress(TypeError), torch.device("meta"):
            timm.create_model(architecture, **arguments)
            return arguments
    return {}


def reset_head(model: nn.Module) -> None:
    """Draw the head's linear layers from torch's global generator: normal of 0.02, zero biases."""
    for path in find_head(model) or ():
        for module in model.get_submodule(path).modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def load_processor(name_or_path: str) -> BaseImageProcessor:
    """Load the image processor that goes with a model."""
    with naming_model(name_or_path):
        return AutoImageProcessor.from_pretrained(find_model(name_or_path), trust_remote_code=False)
