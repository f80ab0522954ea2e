"""Anchors as mmdetection places and assigns them, on torchvision's classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork

#: An object whose best anchor overlaps less has none.
LEAST_OVERLAP = 0.3


class StridedAnchors(AnchorGenerator):
    """Anchors at the pyramid's own strides.

    torchvision takes the stride from the sizes of picture and map, which is wrong where the map was padded: of 608
    pixels P6 has 10 rows, 64 pixels apart and not 60. It also rounds the sides of anchors.

    Args:
        sizes (`Sequence[Sequence[float]]`): Sides of square anchors, by level.
        ratios (`Sequence[float]`): Heights over widths, at every level.
        strides (`Sequence[int]`): Pixels a step, by level.
    """

    def __init__(self, sizes: Sequence[Sequence[float]], ratios: Sequence[float], strides: Sequence[int]) -> None:
        super().__init__(tuple(map(tuple, sizes)), (tuple(ratios),) * len(sizes))
        self.strides = list(strides)

    def generate_anchors(self, scales: Any, aspect_ratios: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Anchors `(ratios * sizes, 4)` around zero, float32 on the CPU; ratios outside, sizes inside."""
        heights = torch.tensor(aspect_ratios).sqrt()[:, None] * torch.tensor(scales)
        widths = torch.tensor(aspect_ratios).rsqrt()[:, None] * torch.tensor(scales)
        corners = torch.stack([widths.flatten(), heights.flatten()], 1) / 2
        return torch.cat([-corners, corners], 1)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Anchors `(N, 4)` of each image, those of all levels in turn."""
        anchors = self.on_maps(feature_maps)
        return [anchors for _ in image_list.image_sizes]

    def on_maps(self, feature_maps: Sequence[Tensor]) -> Tensor:
        """Anchors `(N, 4)` of one image, those of all levels in turn, whose maps `(B, C, H, W)` are these."""
        by_level = []
        for feature, cell, stride in zip(feature_maps, self.cell_anchors, self.strides, strict=True):
            height, width = feature.shape[-2:]
            rows = torch.arange(height, dtype=feature.dtype, device=feature.device) * stride
            columns = torch.arange(width, dtype=feature.dtype, device=feature.device) * stride
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            shifts = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)
            by_level.append((shifts + cell.to(feature)).reshape(-1, 4))
        return torch.cat(by_level)


class ProposalNetwork(RegionProposalNetwork):
    """A proposal network that assigns objects to anchors as mmdetection's `MaxIoUAssigner` with `allowed_border=0`.

    Anchors that reach over the border of the image (without its padding) do not train. An object without an anchor
    above the threshold takes its best ones, but none that overlap less than `LEAST_OVERLAP`. Targets have a `size`
    as well as `boxes`: height and width of the image.
    """

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Labels `(N,)` (1 object, 0 background, -1 neither) and matched boxes `(N, 4)` of each image's anchors."""
        labels, matched = [], []
        for boxes, target in zip(anchors, targets, strict=True):
            inside = find_inside(boxes, target["size"])
            label, box = boxes.new_full((len(boxes),), -1.0), torch.zeros_like(boxes)
            label[inside], box[inside] = self._assign(boxes[inside], target["boxes"])
            labels.append(label)
            matched.append(box)
        return labels, matched

    def _assign(self, anchors: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
        """Labels and boxes of anchors that train."""
        if not len(objects):
            return anchors.new_zeros(len(anchors)), torch.zeros_like(anchors)
        overlaps = self.box_similarity(objects, anchors)  # (objects, anchors)
        greatest, matched = overlaps.max(0)
        matcher = self.proposal_matcher
        labels = torch.where(greatest < matcher.low_threshold, 0.0, -1.0)
        labels[greatest >= matcher.high_threshold] = 1.0
        best = overlaps.max(1, keepdim=True).values
        is_best = (overlaps == best) & (best >= LEAST_OVERLAP)
        # Where an anchor is the best of several objects, the last of them takes it.
        taken = (is_best * torch.arange(1, len(objects) + 1, device=anchors.device)[:, None]).max(0).values
        labels[taken > 0] = 1.0
        return labels, objects[torch.where(taken > 0, taken - 1, matched)].to(anchors.dtype)


def find_inside(boxes: Tensor, size: Tensor) -> Tensor:
    """Mask `(N,)` of the boxes inside an image of height and width `size`; all, if it is too small for any."""
    height, width = size.tolist()
    inside = (boxes[:, :2] >= 0).all(1) & (boxes[:, 2] < width) & (boxes[:, 3] < height)
    return inside if inside.any() else torch.ones_like(inside)
