"""One view of every architecture: the loss of a batch, and objects in pixels of the original images.

A batch has `pixel_values` `(B, 3, H, W)` padded at right and bottom, `sizes` `(B, 2)` before padding, `original_sizes`
`(B, 2)` before resizing, and `targets`: by image `boxes` `(N, 4)`, `labels` `(N,)` from 0, and `masks` `(N, h, w)`.
What is found is, by image: `boxes` `(N, 4)` in its original pixels, `scores`, `labels` from 0, and boolean `masks`
`(N, H, W)` where the architecture gives any. `architectures.py` says which function belongs to which.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import box_convert, clip_boxes_to_image, masks_to_boxes

from .detector_base import Objects

MOST_OBJECTS = 100


class Batch(TypedDict, total=False):
    """Images with objects, as the head of this file says.

    Args:
        pixel_values (`Tensor`): `(B, 3, H, W)`.
        sizes (`Tensor`): `(B, 2)`.
        original_sizes (`Tensor`): `(B, 2)`.
        index (`list[int]`, *optional*): Place of each image in its split.
        turn (`list[int]`, *optional*): EXIF orientation by which its annotations have to turn.
        targets (`list[Objects]`, *optional*): What is annotated, in training.
    """

    pixel_values: Tensor
    sizes: Tensor
    original_sizes: Tensor
    index: list[int]
    turn: list[int]
    targets: list[Objects]


#: Objects of one image from a query's class logits and box, and the size of the image.
FromQueries = Callable[[Tensor, Tensor, tuple[int, int]], Objects]


def detector_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Loss of this package's detectors, which take targets as they are."""
    return model(pixel_values=batch["pixel_values"], sizes=batch["sizes"], targets=batch["targets"]).loss


def detr_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Loss of the DETR family."""
    pixel_values, sizes = batch["pixel_values"], batch["sizes"]
    labels = [_to_detr(target, size) for target, size in zip(batch["targets"], sizes, strict=True)]
    return model(pixel_values=pixel_values, pixel_mask=pixel_mask(pixel_values, sizes), labels=labels).loss


def mask2former_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Loss of Mask2Former, whose masks are as large as the padded images."""
    pixel_values, sizes = batch["pixel_values"], batch["sizes"]
    height, width = pixel_values.shape[-2:]
    masks = [
        F.pad(t["masks"].float(), (0, width - t["masks"].shape[2], 0, height - t["masks"].shape[1]))
        for t in batch["targets"]
    ]
    classes = [target["labels"] for target in batch["targets"]]
    mask = pixel_mask(pixel_values, sizes)
    return model(pixel_values=pixel_values, pixel_mask=mask, mask_labels=masks, class_labels=classes).loss.sum()


def find_detections(model: nn.Module, batch: Batch) -> list[Objects]:
    """What this package's detectors find."""
    detections = model(pixel_values=batch["pixel_values"], sizes=batch["sizes"]).detections
    rows = zip(detections, batch["sizes"], original_sizes(batch), strict=True)
    return [_rescale(one, size, original) for one, size, original in rows]


def find_best_classes(model: nn.Module, batch: Batch) -> list[Objects]:
    """What DETR finds: each query one object of its likeliest class; one more class means that there is none."""

    def choose(logits: Tensor, boxes: Tensor, size: tuple[int, int]) -> Objects:
        scores, labels = logits.softmax(-1)[:, :-1].max(-1)
        return {"boxes": _to_corners(boxes, size), "scores": scores, "labels": labels}

    return _find_by_query(model, batch, choose)


def find_best_pairs(model: nn.Module, batch: Batch) -> list[Objects]:
    """What DETR's successors find: the best pairs of query and class, each scored by itself."""

    def choose(logits: Tensor, boxes: Tensor, size: tuple[int, int]) -> Objects:
        scores, flat = logits.sigmoid().flatten().topk(min(MOST_OBJECTS, logits.numel()))
        queries, labels = flat // logits.shape[1], flat % logits.shape[1]
        return {"boxes": _to_corners(boxes[queries], size), "scores": scores, "labels": labels}

    return _find_by_query(model, batch, choose)


def _find_by_query(model: nn.Module, batch: Batch, choose: FromQueries) -> list[Objects]:
    """Objects from the logits and boxes of queries."""
    mask = pixel_mask(batch["pixel_values"], batch["sizes"])
    outputs = model(pixel_values=batch["pixel_values"], pixel_mask=mask)
    rows = zip(outputs.logits, outputs.pred_boxes, original_sizes(batch), strict=True)
    return [choose(logits.float(), boxes.float(), size) for logits, boxes, size in rows]


def find_masks(model: nn.Module, batch: Batch) -> list[Objects]:
    """What Mask2Former finds."""
    pixel_values, sizes = batch["pixel_values"], batch["sizes"]
    outputs = model(pixel_values=pixel_values, pixel_mask=pixel_mask(pixel_values, sizes))
    padded = tuple(pixel_values.shape[-2:])
    queries = zip(outputs.class_queries_logits, outputs.masks_queries_logits, strict=True)
    rows = zip(queries, sizes.tolist(), original_sizes(batch), strict=True)
    return [_from_mask2former(c.float(), m.float(), padded, size, original) for (c, m), size, original in rows]


def original_sizes(batch: Batch) -> list[tuple[int, int]]:
    """Height and width of each image before it was resized."""
    return [(int(height), int(width)) for height, width in batch["original_sizes"].tolist()]


def pixel_mask(pixel_values: Tensor, sizes: Tensor) -> Tensor:
    """Mask `(B, H, W)`, int64, of the pixels that are no padding."""
    height, width = pixel_values.shape[-2:]
    rows = torch.arange(height, device=sizes.device)[None, :] < sizes[:, :1]
    columns = torch.arange(width, device=sizes.device)[None, :] < sizes[:, 1:]
    return (rows[:, :, None] & columns[:, None, :]).long()


def _to_detr(target: Objects, size: Tensor) -> dict[str, Tensor]:
    """Boxes as centre, width and height over the size of the image without its padding, as in DETR's own code."""
    height, width = size.tolist()
    scale = target["boxes"].new_tensor([width, height, width, height])
    return {"class_labels": target["labels"], "boxes": box_convert(target["boxes"] / scale, "xyxy", "cxcywh")}


def _to_corners(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The inverse of `_to_detr` in the image of this height and width, inside of it."""
    height, width = size
    corners = box_convert(boxes, "cxcywh", "xyxy") * boxes.new_tensor([width, height, width, height])
    return clip_boxes_to_image(corners, size)


def _from_mask2former(
    logits: Tensor, masks: Tensor, padded: tuple[int, ...], size: list[int], original: tuple[int, int]
) -> Objects:
    """Instances of one image, as Mask2Former's own code takes them (arXiv 2112.01527, appendix): the best pairs of
    query and class, scored by class probability times the mean foreground probability of the mask.
    """
    scores, flat = logits.softmax(-1)[:, :-1].flatten().topk(min(MOST_OBJECTS, masks.shape[0] * (logits.shape[1] - 1)))
    queries, labels = flat // (logits.shape[1] - 1), flat % (logits.shape[1] - 1)
    full = F.interpolate(masks[queries][None], size=padded, mode="bilinear", align_corners=False)
    full = full[..., : size[0], : size[1]]
    full = F.interpolate(full, size=original, mode="bilinear", align_corners=False)[0]
    binary = full > 0
    inside = (full.sigmoid() * binary).flatten(1).sum(1) / binary.flatten(1).sum(1).clamp(min=1)
    kept = binary.flatten(1).any(1)
    binary, scores, labels = binary[kept], (scores * inside)[kept], labels[kept]
    boxes = masks_to_boxes(binary) if len(binary) else full.new_zeros(0, 4)
    boxes[:, 2:] += 1  # the far edges of masks_to_boxes are pixels of the mask
    return {"boxes": boxes, "scores": scores, "labels": labels, "masks": binary}


def _rescale(one: Objects, size: Tensor, original: tuple[int, int]) -> Objects:
    """Detections in pixels of the original image, their masks pasted into it."""
    height, width = size.tolist()
    factors = one["boxes"].new_tensor([original[1] / width, original[0] / height] * 2)
    found = {**one, "boxes": one["boxes"] * factors}
    if "masks" in one:
        found["masks"] = paste_masks_in_image(one["masks"], found["boxes"], original)[:, 0] > 0.5
    return found
