"""The dense architectures, one row each: what they are made of, what they learn from and what they give."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import (
    ConditionalDetrConfig,
    ConditionalDetrForObjectDetection,
    DetrConfig,
    DetrForObjectDetection,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    PretrainedConfig,
    PreTrainedModel,
)

from mona_peft.finetuning.settings import check_names

from .cascade_mask_rcnn import CascadeMaskRCNNConfig, CascadeMaskRCNNForInstanceSegmentation
from .outputs import (
    Batch,
    Objects,
    detector_loss,
    detr_loss,
    find_best_classes,
    find_best_pairs,
    find_detections,
    find_masks,
    mask2former_loss,
)
from .retinanet import RetinaNetConfig, RetinaNetForObjectDetection
from .segformer_head import BackboneSegformer, BackboneSegformerConfig
from .upernet import OfficialUperNet, OfficialUperNetConfig


@dataclass(frozen=True)
class Architecture:
    """One row of the table.

    Args:
        task (`str`): What it solves: `semantic_segmentation`, `detection` or `instance_segmentation`.
        config_class (`type`): Of transformers, or of this package.
        model_class (`type`): Of the model.
        stages (`tuple[int, ...]`): Stages of the backbone it usually takes, from 1 (or -1, the last); all if empty.
        loss (`Callable`, *optional*): `loss(model, batch)` of a batch of objects. Label maps need none: transformers'
            models compute it, all in one way.
        find (`Callable`, *optional*): `find(model, batch)` gives the objects of each image. `None` where the outputs
            are logits of a label map.
        least_stages (`Callable`): `least_stages(config)` gives how many stages of a backbone its configuration needs.
    """

    task: str
    config_class: type[Any]
    model_class: type[PreTrainedModel]
    stages: tuple[int, ...] = ()
    loss: Callable[[nn.Module, Batch], Tensor] | None = None
    find: Callable[[nn.Module, Batch], list[Objects]] | None = None
    least_stages: Callable[[Any], int] = lambda config: 1

    @property
    def options(self) -> frozenset[str]:
        """Names of the settings that its configuration has and a run may give."""
        shared = {"backbone_config", *inspect.signature(PretrainedConfig.__init__).parameters}
        names = set(self.config_class.attribute_map)
        # A configuration passes on to its base what it has no argument for, so those of the bases count as well.
        for base in self.config_class.__mro__[: self.config_class.__mro__.index(PretrainedConfig)]:
            arguments = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
            names |= {argument.name for argument in arguments if argument.kind is not argument.VAR_KEYWORD}
        return frozenset(names - shared)


#: By the name on the command line.
ARCHITECTURES = {
    "upernet": Architecture(
        "semantic_segmentation",
        OfficialUperNetConfig,
        OfficialUperNet,
        least_stages=lambda config: 3 if config.use_auxiliary_head else 1,  # that head reads the third
    ),
    "segformer": Architecture("semantic_segmentation", BackboneSegformerConfig, BackboneSegformer),
    # The paper's RetinaNet leaves out the first stage, and makes P6 and P7 itself.
    "retinanet": Architecture(
        "detection", RetinaNetConfig, RetinaNetForObjectDetection, (2, 3, 4), detector_loss, find_detections
    ),
    "detr": Architecture("detection", DetrConfig, DetrForObjectDetection, (-1,), detr_loss, find_best_classes),
    "conditional_detr": Architecture(
        "detection", ConditionalDetrConfig, ConditionalDetrForObjectDetection, (-1,), detr_loss, find_best_pairs
    ),
    "cascade_mask_rcnn": Architecture(
        "instance_segmentation",
        CascadeMaskRCNNConfig,
        CascadeMaskRCNNForInstanceSegmentation,
        loss=detector_loss,
        find=find_detections,
    ),
    "mask2former": Architecture(
        "instance_segmentation",
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        loss=mask2former_loss,
        find=find_masks,
        least_stages=lambda config: 3,
    ),
}


def architectures_for(task: str) -> tuple[str, ...]:
    """Names of the architectures that solve a task."""
    return tuple(name for name, row in ARCHITECTURES.items() if row.task == task)


def model_types() -> dict[str, str]:
    """Names of the architectures by the `model_type` in their configurations."""
    return {row.config_class.model_type: name for name, row in ARCHITECTURES.items()}


def architecture_of(config: PretrainedConfig) -> str | None:
    """Name in `ARCHITECTURES` of a configuration; `None` if it is no dense model of this package."""
    return model_types().get(config.model_type)


def check_architecture(name: str, options: Mapping[str, object]) -> Architecture:
    """Find an architecture and check the names of its settings.

    Args:
        name (`str`): A key of `ARCHITECTURES`.
        options (`Mapping[str, object]`): The settings that it is to get.

    Raises:
        ValueError: If there is no such architecture, or it has no such setting.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"Unknown architecture {name!r}; choose one of {', '.join(ARCHITECTURES)}.")
    row = ARCHITECTURES[name]
    check_names(f"The architecture {name!r}", options, row.options)
    return row
