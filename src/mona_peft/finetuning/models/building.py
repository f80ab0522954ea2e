"""Task models by name: around a pretrained backbone, from a whole checkpoint, or rebuilt from a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import (
    AutoConfig,
    ConditionalDetrConfig,
    ConditionalDetrForObjectDetection,
    DetrConfig,
    DetrForObjectDetection,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    PretrainedConfig,
    PreTrainedModel,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from mona_peft.blocks.head import find_head

from .backbones import absolute_if_folder, backbone_config, build_around_backbone, label_maps
from .cascade_mask_rcnn import CascadeMaskRCNNConfig, CascadeMaskRCNNForInstanceSegmentation
from .retinanet import RetinaNetConfig, RetinaNetForObjectDetection
from .segformer_head import BackboneSegformer, BackboneSegformerConfig

#: Name on the command line -> configuration and model class.
ARCHITECTURES: dict[str, tuple[type[Any], type[Any]]] = {
    "upernet": (UperNetConfig, UperNetForSemanticSegmentation),
    "segformer": (BackboneSegformerConfig, BackboneSegformer),
    "retinanet": (RetinaNetConfig, RetinaNetForObjectDetection),
    "detr": (DetrConfig, DetrForObjectDetection),
    "conditional_detr": (ConditionalDetrConfig, ConditionalDetrForObjectDetection),
    "cascade_mask_rcnn": (CascadeMaskRCNNConfig, CascadeMaskRCNNForInstanceSegmentation),
    "mask2former": (Mask2FormerConfig, Mask2FormerForUniversalSegmentation),
}


def architecture_of(config: PretrainedConfig) -> str | None:
    """Name in `ARCHITECTURES` of a configuration; `None` if it is no dense model of this package."""
    return next((name for name, (cls, _) in ARCHITECTURES.items() if cls.model_type == config.model_type), None)


def build_model(
    architecture: str,
    name_or_path: str,
    class_names: Sequence[str],
    out_indices: Sequence[int] | None = None,
    drop_path: float | None = None,
    **options: Any,
) -> PreTrainedModel:
    """Make a task model ready for a method to be applied to it.

    Args:
        architecture (`str`): a key of `ARCHITECTURES`.
        name_or_path (`str`): a pretrained backbone (any classifier), or a model of this very architecture.
        class_names (`Sequence[str]`): by label.
        out_indices (`Sequence[int]`, *optional*): stages of the backbone to use, from 1.
        drop_path (`float`, *optional*): stochastic depth rate of the last block.
        **options: settings of the architecture's configuration.

    Raises:
        `ValueError`: if there is no such architecture.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"Unknown architecture {architecture!r}; choose one of {', '.join(ARCHITECTURES)}.")
    config_class, model_class = ARCHITECTURES[architecture]
    name_or_path = absolute_if_folder(name_or_path)
    labels = label_maps(class_names)
    checkpoint = AutoConfig.from_pretrained(name_or_path)
    if checkpoint.model_type == config_class.model_type:
        for name, value in {**labels, **options}.items():
            setattr(checkpoint, name, value)
        return model_class.from_pretrained(name_or_path, config=checkpoint, ignore_mismatched_sizes=True)
    config = config_class(backbone_config=backbone_config(name_or_path, out_indices, drop_path), **labels, **options)
    return build_around_backbone(config, model_class, name_or_path)


def rebuild_model(config: PretrainedConfig, base: str) -> PreTrainedModel:
    """The model that an adapter was trained on, its heads still at random: the adapter brings them.

    Args:
        config (`PretrainedConfig`): saved with the adapter.
        base (`str`): what the model was built around.

    Raises:
        `ValueError`: if `config` is not of a dense model of this package.
    """
    architecture = architecture_of(config)
    if architecture is None:
        raise ValueError(f"A {config.model_type} configuration belongs to none of {', '.join(ARCHITECTURES)}.")
    model_class = ARCHITECTURES[architecture][1]
    if AutoConfig.from_pretrained(base).model_type == config.model_type:
        return model_class.from_pretrained(base, config=config, ignore_mismatched_sizes=True)
    return build_around_backbone(config, model_class, base)


def head_paths(model: nn.Module) -> tuple[str, ...]:
    """Paths of the modules that are not the backbone, neck and heads, as PEFT can train and save them.

    PEFT finds whole modules by the ends of their names, so each path must end no other module's name, and no parameter
    may lie outside a module.

    Raises:
        `ValueError`: if that does not hold for this model.
    """
    paths = find_head(model) or ()
    parameters = {name for name, _ in model.named_parameters()}
    for path in paths:
        if path in parameters:
            raise ValueError(f"{type(model).__name__} keeps a parameter of its own, {path!r}, which PEFT cannot save.")
    for name, _ in model.named_modules():
        clash = next((path for path in paths if name != path and name.endswith(path)), None)
        if clash is not None:
            raise ValueError(
                f"{type(model).__name__} cannot be trained on this backbone: PEFT would take '{name}' for the head "
                f"'{clash}', by the end of its name. Choose another architecture or backbone."
            )
    return paths
