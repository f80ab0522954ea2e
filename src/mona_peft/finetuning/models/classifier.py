"""Image classifiers: loaded with the labels of the data, and a fresh head where those are new."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel

from mona_peft.blocks.head import find_head

from .drop_path import drop_mlp_branches, set_drop_path


def load_classifier(
    name_or_path: str, class_names: Sequence[str], drop_path: float | None = None, multilabel: bool = False
) -> PreTrainedModel:
    """Load a pretrained classifier; its head is new unless it was trained on these very classes.

    Args:
        name_or_path (`str`): model id on the Hub, or a folder.
        class_names (`Sequence[str]`): by label.
        drop_path (`float`, *optional*): stochastic depth rate of the last block, on both branches; the model's own,
            as transformers applies it, if left out.
        multilabel (`bool`): whether an image has several labels.

    Raises:
        `ValueError`: if `drop_path` is given for a model that has no such setting.
    """
    labels = dict(enumerate(class_names))
    config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    same_classes = dict(config.id2label or {}) == labels
    config.id2label, config.label2id = labels, {name: label for label, name in labels.items()}
    config.problem_type = "multi_label_classification" if multilabel else "single_label_classification"
    set_drop_path(config, drop_path)
    model = AutoModelForImageClassification.from_pretrained(
        name_or_path, config=config, ignore_mismatched_sizes=True, trust_remote_code=False
    )
    if not same_classes:
        reset_head(model)
    if drop_path is not None:
        drop_mlp_branches(model)
    return model


def reset_head(model: nn.Module) -> None:
    """Draw the head's linear layers from torch's global generator: normal of 0.02, zero biases."""
    for path in find_head(model) or ():
        for module in model.get_submodule(path).modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def load_processor(name_or_path: str) -> Any:
    """Load the image processor that goes with a model."""
    return AutoImageProcessor.from_pretrained(name_or_path, trust_remote_code=False)
