"""One view of every architecture: the loss of a batch, and objects in pixels of the original images.

A batch has `pixel_values` `(B, 3, H, W)` padded at right and bottom, `sizes` `(B, 2)` before padding, `original_sizes`
`(B, 2)` before resizing, and `targets`: by image `boxes` `(N, 4)`, `labels` `(N,)` from 0, and `masks` `(N, h, w)`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import box_convert, clip_boxes_to_image, masks_to_boxes

from .detector_base import Objects

Batch = dict[str, Any]
NORMALISED = ("detr", "conditional_detr")
MOST_OBJECTS = 100


def object_loss(architecture: str, model: nn.Module, batch: Batch) -> Tensor:
    """Scalar loss of a batch.

    Args:
        architecture (`str`): of the model.
        model (`nn.Module`): the model, or what is around it.
        batch (`Batch`): as at the head of this file.
    """
    pixel_values, sizes = batch["pixel_values"], batch["sizes"]
    if architecture in NORMALISED:
        labels = [_to_detr(target, size) for target, size in zip(batch["targets"], sizes, strict=True)]
        return model(pixel_values=pixel_values, pixel_mask=pixel_mask(pixel_values, sizes), labels=labels).loss
    if architecture == "mask2former":
        height, width = pixel_values.shape[-2:]
        masks = [
            F.pad(t["masks"].float(), (0, width - t["masks"].shape[2], 0, height - t["masks"].shape[1]))
            for t in batch["targets"]
        ]
        classes = [target["labels"] for target in batch["targets"]]
        mask = pixel_mask(pixel_values, sizes)
        return model(pixel_values=pixel_values, pixel_mask=mask, mask_labels=masks, class_labels=classes).loss.sum()
    return model(pixel_values=pixel_values, sizes=sizes, targets=batch["targets"]).loss


def find_objects(architecture: str, model: nn.Module, batch: Batch) -> list[Objects]:
    """Objects of each image: `boxes` `(N, 4)` in its original pixels, `scores`, `labels` from 0, and boolean `masks`
    `(N, H, W)` where the architecture gives any.
    """
    pixel_values, sizes = batch["pixel_values"], batch["sizes"]
    originals = [(int(height), int(width)) for height, width in batch["original_sizes"].tolist()]
    if architecture in NORMALISED:
        outputs = model(pixel_values=pixel_values, pixel_mask=pixel_mask(pixel_values, sizes))
        return [
            _from_detr(architecture, logits.float(), boxes.float(), size)
            for logits, boxes, size in zip(outputs.logits, outputs.pred_boxes, originals, strict=True)
        ]
    if architecture == "mask2former":
        outputs = model(pixel_values=pixel_values, pixel_mask=pixel_mask(pixel_values, sizes))
        rows = zip(outputs.class_queries_logits, outputs.masks_queries_logits, sizes.tolist(), originals, strict=True)
        padded = tuple(pixel_values.shape[-2:])
        return [_from_mask2former(c.float(), m.float(), padded, size, original) for c, m, size, original in rows]
    detections = model(pixel_values=pixel_values, sizes=sizes).detections
    return [_rescale(one, size, original) for one, size, original in zip(detections, sizes, originals, strict=True)]


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


def _from_detr(architecture: str, logits: Tensor, boxes: Tensor, size: tuple[int, int]) -> Objects:
    """DETR has a class "nothing" and gives one object a query; its successors score every class of every query."""
    if architecture == "detr":
        scores, labels = logits.softmax(-1)[:, :-1].max(-1)
        queries = torch.arange(len(scores), device=scores.device)
    else:
        scores, flat = logits.sigmoid().flatten().topk(min(MOST_OBJECTS, logits.numel()))
        queries, labels = flat // logits.shape[1], flat % logits.shape[1]
    height, width = size
    corners = box_convert(boxes[queries], "cxcywh", "xyxy") * boxes.new_tensor([width, height, width, height])
    return {"boxes": clip_boxes_to_image(corners, size), "scores": scores, "labels": labels}


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
