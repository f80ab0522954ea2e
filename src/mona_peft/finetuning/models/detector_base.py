"""What the detectors from torchvision's parts share: backbone, pyramid, anchors, life as a transformers model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, FeaturePyramidNetwork
from transformers import AutoBackbone, AutoConfig, PretrainedConfig, PreTrainedModel

from .anchors import StridedAnchors

Objects = dict[str, Tensor]


@dataclass
class DetectorOutput:
    """What a detector gives.

    Args:
        loss (`Tensor`, *optional*): Scalar, in training.
        losses (`dict[str, Tensor]`): Its parts.
        detections (`list[Objects]`): In evaluation, by image: `boxes` `(N, 4)` in pixels of the model's input,
            `scores`, `labels` from 0, and `masks` `(N, 1, M, M)` in [0, 1] relative to the box where there are masks.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)
    detections: list[Objects] = field(default_factory=list)


class DetectorConfig(PretrainedConfig):
    """Base of the configurations.

    Args:
        backbone_config (`PretrainedConfig` or `dict`): A hierarchical backbone with `out_features`, or a
            plain ViT with one of them.
        fpn_channels (`int`): Channels of the pyramid.
        anchor_scale (`float`): Side of the smallest anchor of a level over the level's stride.
        anchor_octaves (`int`): Anchor sizes a level, in steps of 2^(1/octaves).
        anchor_ratios (`list[float]`): Heights over widths.
        score_threshold (`float`): Detections below it are dropped.
        nms_threshold (`float`): Overlap above which the weaker of two detections of a class is dropped.
        max_detections (`int`): Kept of an image.
        **kwargs: Of `PretrainedConfig`.
    """

    has_no_defaults_at_init = True

    def __init__(
        self,
        backbone_config: PretrainedConfig | dict[str, Any] | None = None,
        fpn_channels: int = 256,
        anchor_scale: float = 4.0,
        anchor_octaves: int = 3,
        anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        max_detections: int = 100,
        **kwargs: Any,
    ) -> None:
        if isinstance(backbone_config, dict):
            values = dict(backbone_config)
            backbone_config = AutoConfig.for_model(values.pop("model_type"), **values)
        self.backbone_config: Any = backbone_config
        self.fpn_channels = fpn_channels
        self.anchor_scale = anchor_scale
        self.anchor_octaves = anchor_octaves
        self.anchor_ratios = list(anchor_ratios)
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections
        super().__init__(**kwargs)


class DetectorModel(PreTrainedModel):
    """Base of the detectors: `backbone`, `neck` and a task part that subclasses add.

    Args:
        config (`DetectorConfig`): The configuration.
        extra_blocks (`ExtraFPNBlock`): Makes the pyramid's levels above the backbone's.

    Raises:
        ValueError: If the backbone is a plain ViT and several of its maps were asked for.
    """

    config_class: type = DetectorConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True

    def __init__(self, config: DetectorConfig, extra_blocks: ExtraFPNBlock) -> None:
        super().__init__(config)
        self.backbone = AutoBackbone.from_config(config.backbone_config)
        strides = backbone_strides(config.backbone_config)
        self.neck = FeaturePyramidNetwork(self.backbone.channels, config.fpn_channels, extra_blocks)
        draw_pyramid_weights(self.neck)
        self.strides = [*strides, *(strides[-1] * 2 ** (1 + n) for n in range(getattr(extra_blocks, "levels", 1)))]

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: torchvision's modules initialise themselves, as their papers want it."""

    def make_anchors(self) -> StridedAnchors:
        """Anchors of every level, sized by its stride. Their tables are no buffers, so the device is set here."""
        steps = [2 ** (n / self.config.anchor_octaves) for n in range(self.config.anchor_octaves)]
        sizes = [[self.config.anchor_scale * stride * step for step in steps] for stride in self.strides]
        with torch.device("cpu"):
            return StridedAnchors(sizes, self.config.anchor_ratios, self.strides)

    def pyramid(self, pixel_values: Tensor) -> OrderedDict[str, Tensor]:
        """Feature maps by level, from the finest, of images `(B, 3, H, W)`."""
        maps = self.backbone(pixel_values).feature_maps
        return self.neck(OrderedDict((str(level), feature) for level, feature in enumerate(maps)))


def draw_pyramid_weights(neck: nn.Module) -> None:
    """Draw a pyramid's first weights as mmdetection does: Xavier's uniform distribution, no biases.

    torchvision's distribution goes by the channels that come in alone, which are many more at the coarse levels.
    """
    for layer in neck.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def is_hierarchical(config: PretrainedConfig) -> bool:
    """Whether a backbone's maps shrink from stage to stage, as Swin's do and those of a plain ViT do not."""
    return hasattr(config, "embed_dim") and hasattr(config, "depths")


def backbone_strides(config: PretrainedConfig) -> list[int]:
    """Pixels a step of each feature map: they double from stage to stage, and stay as they are in a plain ViT.

    Raises:
        ValueError: If maps of a plain ViT, which are all of one size, were to be levels of a pyramid.
    """
    if is_hierarchical(config):
        return [config.patch_size * 2 ** (index - 1) for index in config.out_indices]
    if len(config.out_indices) > 1:
        raise ValueError(
            f"The maps of a {config.model_type} model are all of one size, so the levels of a feature pyramid are "
            f"made of one of them, such as the last (--out_indices {len(config.stage_names) - 1}); "
            f"{list(config.out_indices)} were asked for. Or choose --architecture conditional_detr."
        )
    return [config.patch_size]


def map_channels(config: PretrainedConfig) -> int:
    """Channels of a backbone's last feature map, in either kind of backbone."""
    if is_hierarchical(config):
        return config.embed_dim * 2 ** (config.out_indices[-1] - 1)
    return config.hidden_size


def image_list(pixel_values: Tensor, sizes: Tensor) -> ImageList:
    """Padded images `(B, 3, H, W)` with their sizes `(B, 2)` before padding, as torchvision's parts want them."""
    return ImageList(pixel_values, [(int(height), int(width)) for height, width in sizes.tolist()])


def shift_labels(objects: Sequence[Objects], by: int) -> list[Objects]:
    """Objects with their labels shifted: torchvision's region heads keep 0 for the background."""
    return [{**one, "labels": one["labels"] + by} for one in objects]
