"""Backbones for dense prediction from any pretrained model of the same architecture, and task models around them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel, ViTConfig

from .drop_path import set_drop_path
from .pretrained import load_fitting
from .vit_backbone import ViTBackboneConfig

#: Model types of backbones that pad their own maps.
PADDING_THEMSELVES = ("swin", "swinv2")


def backbone_config(
    name_or_path: str, out_indices: Sequence[int] | None = None, drop_path: float | None = None
) -> PretrainedConfig:
    """Configuration of the backbone of a pretrained model.

    Args:
        name_or_path (`str`): A classifier or bare model: Hub id or folder.
        out_indices (`Sequence[int]`, *optional*): Stages whose feature maps are wanted, from 1 (or -1, the last); all
            of a hierarchical backbone and every fourth of a ViT's blocks if left out.
        drop_path (`float`, *optional*): Stochastic depth rate of the last block; the model's own if left out.

    Raises:
        ValueError: If the model has no such stages, cannot be a backbone, or has no such setting.
    """
    config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    if isinstance(config, ViTConfig) and not isinstance(config, ViTBackboneConfig):
        values = {name: value for name, value in config.to_dict().items() if name != "model_type"}
        config = ViTBackboneConfig(**values)
    if not hasattr(config, "stage_names"):
        raise ValueError(
            f"{name_or_path} is a {config.model_type} model, which cannot be a backbone for dense prediction. Take a "
            "Swin, ViT, BEiT, DINOv2 or another model that transformers.AutoBackbone knows."
        )
    last = len(config.stage_names) - 1
    indices = [index if index > 0 else last + 1 + index for index in out_indices or _default_stages(last)]
    if not 1 <= min(indices) <= max(indices) < len(config.stage_names):
        raise ValueError(f"{name_or_path} has stages 1 to {len(config.stage_names) - 1}; {indices} were asked for.")
    config.out_indices = indices
    set_drop_path(config, drop_path)
    # What belonged to the model's own task.
    config.id2label, config.architectures = {0: "LABEL_0", 1: "LABEL_1"}, None
    return config


def pads_itself(config: PretrainedConfig) -> bool:
    """Whether images may have any size, because the backbone pads its own maps as Swin does.

    Args:
        config (`PretrainedConfig`): Of a backbone, or of a model with one.
    """
    backbone = getattr(config, "backbone_config", None) or config
    return backbone.model_type in PADDING_THEMSELVES


def _default_stages(count: int) -> list[int]:
    return list(range(1, count + 1)) if count <= 4 else [count * quarter // 4 for quarter in (1, 2, 3, 4)]


def find_backbone_module(model: nn.Module) -> tuple[str, PreTrainedModel]:
    """Path and module of the transformers backbone inside `model`.

    Raises:
        ValueError: If there is none.
    """
    for name, module in model.named_modules():
        if name and isinstance(module, PreTrainedModel) and hasattr(module, "out_features"):
            return name, module
    raise ValueError(f"{type(model).__name__} has no transformers backbone in it.")


def load_backbone_weights(model: nn.Module, name_or_path: str) -> None:
    """Fill the backbone inside `model` from pretrained weights; its output norms, which those lack, stay.

    Raises:
        ValueError: If weights of the backbone are missing or have other shapes, or the model is of another type.
    """
    _, backbone = find_backbone_module(model)
    check_type(name_or_path, backbone.config)
    # That a classifier's head is left over, and output norms are new, is expected.
    loaded, info = load_fitting(
        type(backbone), name_or_path, backbone.config, lambda backbone: ("hidden_states_norms",)
    )
    fresh = {name: value for name, value in backbone.state_dict().items() if name in info["missing_keys"]}
    backbone.load_state_dict({**loaded.state_dict(), **fresh})


def check_type(name_or_path: str, config: PretrainedConfig) -> None:
    """Check that a pretrained model is of a type, before weights of another one are read as if they were of it.

    Raises:
        ValueError: If it is of another type.
    """
    found = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False).model_type
    wanted = {config.model_type} | ({"vit"} if isinstance(config, ViTBackboneConfig) else set())
    if found not in wanted:
        raise ValueError(f"{name_or_path} is a {found} model, where a {min(wanted)} model is needed.")


def build_around_backbone(config: PretrainedConfig, model_class: type, name_or_path: str) -> PreTrainedModel:
    """A task model whose neck and heads start at random and whose backbone is pretrained.

    Its `name_or_path` is the backbone's: a saved adapter names it as its base.

    Args:
        config (`PretrainedConfig`): Of the task model, with `backbone_config`.
        model_class (`type`): Of the task model.
        name_or_path (`str`): Hub id or folder.
    """
    model = model_class(config)
    load_backbone_weights(model, name_or_path)
    model.config.name_or_path = model.name_or_path = name_or_path
    return model


def label_maps(class_names: Sequence[str]) -> dict[str, Any]:
    """`id2label` and `label2id` for a configuration."""
    return {"id2label": dict(enumerate(class_names)), "label2id": {name: i for i, name in enumerate(class_names)}}


def absolute_if_folder(name_or_path: str) -> str:
    """A folder as an absolute path, so that what is saved finds it from anywhere; a Hub id as it is."""
    return str(Path(name_or_path).resolve()) if Path(name_or_path).is_dir() else name_or_path
