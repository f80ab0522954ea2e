"""RetinaNet (arXiv 1708.02002) on a transformers backbone: torchvision's head, losses and post-processing.

As the paper's VOC recipe has it: a pyramid over stages 2 to 4 with P6 and P7 computed from the backbone's last map
(mmdetection's `add_extra_convs="on_input"`), and anchors at their own strides.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from transformers import AutoConfig

from .detector_base import DetectorConfig, DetectorModel, DetectorOutput, Objects, image_list, map_channels


class RetinaNetConfig(DetectorConfig):
    """Configuration of [`RetinaNetForObjectDetection`].

    Args:
        norm_groups (`int`): Groups of a group norm after each convolution of the head; 0 for none, as in the paper.
            A narrow head needs one: its initial weights (normal of 0.01) are made for 256 channels.
        **kwargs: Of `DetectorConfig`.
    """

    model_type = "mona_retinanet"

    def __init__(self, norm_groups: int = 0, **kwargs: Any) -> None:
        self.norm_groups = norm_groups
        super().__init__(**kwargs)


class TopLevels(LastLevelP6P7):
    """P6 and P7 from the backbone's last map, whatever its channels (torchvision goes by their number).

    P7 is a convolution of P6 as it is: torchvision and the paper of RetinaNet put a ReLU between, mmdetection none.
    """

    levels = 2

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels)
        self.use_P5 = False

    def forward(self, p: list[Tensor], c: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        """Add the two levels to the maps `p` and their `names`."""
        sixth = self.p6(c[-1])
        return [*p, sixth, self.p7(sixth)], [*names, "p6", "p7"]


class GivenFeatures(nn.Module):
    """Stands in for the backbone in torchvision's `RetinaNet`, of which only the head and what follows it run.

    Args:
        out_channels (`int`): Channels of the pyramid.
    """

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels


class RetinaNetForObjectDetection(DetectorModel):
    """RetinaNet.

    Args:
        config (`RetinaNetConfig`): The configuration.
    """

    config_class: type = RetinaNetConfig

    def __init__(self, config: RetinaNetConfig) -> None:
        super().__init__(config, TopLevels(map_channels(config.backbone_config), config.fpn_channels))
        anchors = self.make_anchors()
        norm = partial(nn.GroupNorm, config.norm_groups) if config.norm_groups else None
        head = RetinaNetHead(
            config.fpn_channels, anchors.num_anchors_per_location()[0], config.num_labels, norm_layer=norm
        )
        self.detector = RetinaNet(
            GivenFeatures(config.fpn_channels),
            config.num_labels,
            anchor_generator=anchors,
            head=head,
            score_thresh=config.score_threshold,
            nms_thresh=config.nms_threshold,
            detections_per_img=config.max_detections,
        )
        self.post_init()

    def forward(
        self, pixel_values: Tensor, sizes: Tensor, targets: list[Objects] | None = None, **kwargs: Any
    ) -> DetectorOutput:
        """Losses where `targets` are given, detections otherwise.

        Args:
            pixel_values (`Tensor`): `(B, 3, H, W)`, padded at right and bottom.
            sizes (`Tensor`): `(B, 2)`, height and width before padding.
            targets (`list[Objects]`, *optional*): By image: `boxes` `(N, 4)` and `labels` `(N,)` from 0.
            **kwargs: Passed on by wrappers, of no effect.
        """
        images = image_list(pixel_values, sizes)
        features = self._features(pixel_values)
        # Sums over a hundred thousand anchors do not fit fp16.
        with torch.autocast(pixel_values.device.type, enabled=False):
            outputs = self.detector.head(features)
            anchors = self.detector.anchor_generator(images, features)
            if targets is not None:
                losses = self.detector.compute_loss(targets, outputs, anchors)
                return DetectorOutput(loss=torch.stack(list(losses.values())).sum(), losses=losses)
            counts = [
                feature.shape[-2] * feature.shape[-1] * per_place
                for feature, per_place in zip(
                    features, self.detector.anchor_generator.num_anchors_per_location(), strict=True
                )
            ]
            by_level = {name: list(output.split(counts, dim=1)) for name, output in outputs.items()}
            anchors_by_level = [list(one.split(counts)) for one in anchors]
            detections = self.detector.postprocess_detections(by_level, anchors_by_level, images.image_sizes)
        return DetectorOutput(detections=detections)

    def candidates(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """What the head says of every anchor, before thresholds and non-maximum suppression.

        Args:
            pixel_values (`Tensor`): `(B, 3, H, W)`.

        Returns:
            `tuple[Tensor, Tensor]`: Logits `(B, N, classes)`, and boxes `(B, N, 4)` in pixels, which may reach over
                the image's borders.
        """
        features = self._features(pixel_values)
        outputs = self.detector.head(features)
        codes = outputs["bbox_regression"]
        anchors = self.detector.anchor_generator.on_maps(features).expand(codes.shape[0], -1, -1)
        boxes = self.detector.box_coder.decode_single(codes.flatten(0, 1), anchors.flatten(0, 1))
        return outputs["cls_logits"], boxes.reshape(codes.shape)

    def _features(self, pixel_values: Tensor) -> list[Tensor]:
        return [feature.float() for feature in self.pyramid(pixel_values).values()]


AutoConfig.register(RetinaNetConfig.model_type, RetinaNetConfig, exist_ok=True)
