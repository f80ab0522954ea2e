"""Cascade Mask R-CNN (arXiv 1906.09756) on a transformers backbone, from torchvision's detection parts."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from transformers import AutoConfig

from mona_peft.finetuning.settings import check_names

from .anchors import ProposalNetwork
from .cascade_heads import CascadeHeads, CascadeSettings
from .detector_base import DetectorConfig, DetectorModel, DetectorOutput, Objects, image_list, shift_labels

# What the heads share with `DetectorConfig`, under the same name.
SHARED = ("score_threshold", "nms_threshold", "max_detections", "head_norm")


class CascadeMaskRCNNConfig(DetectorConfig):
    """Configuration of [`CascadeMaskRCNNForInstanceSegmentation`].

    Args:
        anchor_scale (`float`): As in `DetectorConfig`.
        anchor_octaves (`int`): As in `DetectorConfig`.
        proposals (`int`): Kept of an image after the proposal network's non-maximum suppression.
        training_proposals (`int`, *optional*): Kept of a training image; twice as many, as in the paper, if left out.
        head_norm (`str`): Norm of the box heads' convolutions: `batch`, `sync` (batch norm over all processes, the
            paper's), `group`, `frozen` or `none`.
        heads (`dict`, *optional*): Settings of `CascadeSettings` other than classes and channels.
        **kwargs: Of `DetectorConfig`.
    """

    model_type = "mona_cascade_mask_rcnn"

    def __init__(
        self,
        anchor_scale: float = 8.0,
        anchor_octaves: int = 1,
        proposals: int = 1000,
        training_proposals: int | None = None,
        head_norm: str = "batch",
        heads: dict[str, object] | None = None,
        **kwargs: Any,
    ) -> None:
        self.proposals = proposals
        self.training_proposals = 2 * proposals if training_proposals is None else training_proposals
        self.heads = dict(heads or {})
        # Configurations once had this instead of `head_norm`.
        self.head_norm = head_norm if self.heads.pop("batch_norm", True) else "none"
        super().__init__(anchor_scale=anchor_scale, anchor_octaves=anchor_octaves, **kwargs)
        self.cascade_settings()

    def cascade_settings(self) -> CascadeSettings:
        """Settings of the heads.

        Raises:
            ValueError: If `heads` has settings that there are not, or that the detector gives.
        """
        given = {"num_classes", "channels", "head_norm"}
        check_names("heads", self.heads, {field.name for field in fields(CascadeSettings)} - given)
        heads = {name: tuple(value) if isinstance(value, list) else value for name, value in self.heads.items()}
        shared = {name: getattr(self, name) for name in SHARED}
        return CascadeSettings(num_classes=self.num_labels or 0, channels=self.fpn_channels, **{**shared, **heads})


class TopLevel(LastLevelMaxPool):
    """The level above the backbone's, for proposals of large objects."""

    levels = 1


class CascadeMaskRCNNForInstanceSegmentation(DetectorModel):
    """Cascade Mask R-CNN.

    Args:
        config (`CascadeMaskRCNNConfig`): The configuration.
    """

    config_class: type = CascadeMaskRCNNConfig

    def __init__(self, config: CascadeMaskRCNNConfig) -> None:
        super().__init__(config, TopLevel())
        anchors = self.make_anchors()
        self.proposal_network = ProposalNetwork(
            anchors,
            RPNHead(config.fpn_channels, anchors.num_anchors_per_location()[0]),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": config.training_proposals, "testing": config.proposals},
            post_nms_top_n={"training": config.training_proposals, "testing": config.proposals},
            nms_thresh=0.7,
        )
        # The level above the backbone's is for proposals alone.
        self.cascade = CascadeHeads(config.cascade_settings(), self.strides[:-1])
        self.post_init()

    def forward(
        self, pixel_values: Tensor, sizes: Tensor, targets: list[Objects] | None = None, **kwargs: Any
    ) -> DetectorOutput:
        """Losses in training, where `targets` are given; detections in evaluation.

        Args:
            pixel_values (`Tensor`): `(B, 3, H, W)`, padded at right and bottom.
            sizes (`Tensor`): `(B, 2)`, height and width before padding.
            targets (`list[Objects]`, *optional*): By image `boxes` `(N, 4)`, `labels` from 0, `masks` `(N, H, W)`.
            **kwargs: Passed on by wrappers, of no effect.

        Raises:
            ValueError: If the model is in training mode without targets.
        """
        if self.training and targets is None:
            raise ValueError("In training mode Cascade Mask R-CNN needs targets; call model.eval() to detect.")
        images = image_list(pixel_values, sizes)
        features = self.pyramid(pixel_values)
        with torch.autocast(pixel_values.device.type, enabled=False):
            features = type(features)((name, feature.float()) for name, feature in features.items())
            shifted = None
            if self.training and targets is not None:
                shifted = [{**one, "size": size} for one, size in zip(shift_labels(targets, 1), sizes, strict=True)]
            proposals, losses = self.proposal_network(images, features, shifted)
            if shifted is not None:
                losses = losses | self.cascade.losses(features, proposals, images.image_sizes, shifted)
                return DetectorOutput(loss=torch.stack(list(losses.values())).sum(), losses=losses)
            detections = self.cascade.detect(features, proposals, images.image_sizes)
        return DetectorOutput(detections=shift_labels(detections, -1))


AutoConfig.register(CascadeMaskRCNNConfig.model_type, CascadeMaskRCNNConfig, exist_ok=True)
