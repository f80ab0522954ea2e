"""Features of regions as mmdetection pools them: aligned, with as many samples as a region has pixels of its map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import box_area, roi_align

#: A region is pooled from the finest map until its sides are twice this many steps of that map: 112 pixels of 4.
FINEST_STEPS = 14


class RegionPooling(nn.Module):
    """RoIAlign over the levels of a pyramid.

    torchvision's `MultiScaleRoIAlign` shifts regions by half a pixel of the map (it has no `aligned`), and takes a
    fixed number of samples.

    Args:
        strides (`Sequence[int]`): Pixels a step of each level, from the finest.
        output_size (`int`): Rows and columns of what is pooled.
    """

    def __init__(self, strides: Sequence[int], output_size: int) -> None:
        super().__init__()
        self.strides = list(strides)
        self.output_size = output_size

    def forward(self, features: Mapping[str, Tensor], boxes: Sequence[Tensor], sizes: object = None) -> Tensor:
        """Pool regions.

        Args:
            features (`Mapping[str, Tensor]`): The pyramid by the numbers of its levels, each `(B, C, H, W)`.
            boxes (`Sequence[Tensor]`): By image `(N, 4)`, in pixels.
            sizes (`object`): Of no effect; torchvision's heads pass the sizes of the images.

        Returns:
            `Tensor`: `(sum of N, C, output_size, output_size)`.
        """
        regions = torch.cat(
            [torch.cat([one.new_full((len(one), 1), image), one], 1) for image, one in enumerate(boxes)]
        )
        levels = self.choose_levels(regions[:, 1:])
        maps = [features[str(level)] for level in range(len(self.strides))]
        pooled = maps[0].new_zeros(len(regions), maps[0].shape[1], self.output_size, self.output_size)
        for level, (feature, stride) in enumerate(zip(maps, self.strides, strict=True)):
            rows = torch.where(levels == level)[0]
            chosen = regions[rows].to(feature.dtype)
            pooled[rows] = roi_align(feature, chosen, self.output_size, 1 / stride, sampling_ratio=0, aligned=True)
        return pooled

    def choose_levels(self, boxes: Tensor) -> Tensor:
        """Level of each box `(N, 4)` by its size: one more whenever it doubles."""
        steps = box_area(boxes).sqrt() / (FINEST_STEPS * self.strides[0])
        return torch.log2(steps + 1e-6).floor().clamp(0, len(self.strides) - 1).long()
