"""The three box and mask heads of Cascade Mask R-CNN (arXiv 1906.09756), each one of torchvision's `RoIHeads`.

Every stage is matched at a higher overlap and starts from the boxes of the stage before. Boxes are class-aware, and
their loss is the generalised IoU of the decoded boxes, as in the paper's COCO recipe. Pooling, first weights, the
masks that are learnt and the mean of the stages' logits are mmdetection's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference
from torchvision.ops import clip_boxes_to_image, generalized_box_iou_loss, remove_small_boxes, roi_align

from .detector_base import Objects
from .head_norms import find_head_norm
from .roi_pooling import RegionPooling

# By what the box offsets of each stage are divided, of the official configuration: about a half and a third of the
# first stage's. torchvision multiplies by weights, their reciprocals.
BOX_STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))


@dataclass(frozen=True)
class CascadeSettings:
    """Settings of the heads; the defaults are the paper's recipe.

    Args:
        num_classes (`int`): Without the background.
        channels (`int`): Of the pyramid and of the heads' convolutions.
        box_convs (`int`): Convolutions of a box head.
        box_features (`int`): Width of a box head's last layer.
        mask_convs (`int`): Convolutions of a mask head.
        head_norm (`str`): Norm of the box heads' convolutions, a key of `HEAD_NORMS`, or `none`.
        ious (`tuple[float, ...]`): Overlap of a positive, by stage.
        loss_weights (`tuple[float, ...]`): By stage.
        box_loss_weight (`float`): Of the generalised IoU loss.
        rois_per_image (`int`): Proposals sampled of an image.
        positive_share (`float`): Most positives among them.
        score_threshold (`float`): Detections below it are dropped.
        nms_threshold (`float`): Overlap above which the weaker of two detections of a class is dropped.
        max_detections (`int`): Kept of an image.
    """

    num_classes: int
    channels: int = 256
    box_convs: int = 4
    box_features: int = 1024
    mask_convs: int = 4
    head_norm: str = "batch"
    ious: tuple[float, ...] = (0.5, 0.6, 0.7)
    loss_weights: tuple[float, ...] = (1.0, 0.5, 0.25)
    box_loss_weight: float = 10.0
    rois_per_image: int = 512
    positive_share: float = 0.25
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100

    def __post_init__(self) -> None:
        if not len(self.ious) == len(self.loss_weights) <= len(BOX_STDS):
            raise ValueError(
                f"ious {self.ious} and loss_weights {self.loss_weights} must be as many, at most {len(BOX_STDS)}."
            )


def make_stage(settings: CascadeSettings, number: int, strides: Sequence[int]) -> RoIHeads:
    """Box and mask head of stage `number`, pooling from a pyramid of these `strides`."""
    channels, classes, iou = settings.channels, settings.num_classes + 1, settings.ious[number]
    norm = None if settings.head_norm == "none" else find_head_norm(settings.head_norm)
    box_head = FastRCNNConvFCHead((channels, 7, 7), [channels] * settings.box_convs, [settings.box_features], norm)
    stage = RoIHeads(
        RegionPooling(strides, output_size=7),
        box_head,
        FastRCNNPredictor(settings.box_features, classes),
        fg_iou_thresh=iou,
        bg_iou_thresh=iou,
        batch_size_per_image=settings.rois_per_image,
        positive_fraction=settings.positive_share,
        bbox_reg_weights=tuple(1 / std for std in BOX_STDS[number]),
        score_thresh=settings.score_threshold,
        nms_thresh=settings.nms_threshold,
        detections_per_img=settings.max_detections,
        mask_roi_pool=RegionPooling(strides, output_size=14),
        mask_head=MaskRCNNHeads(channels, [channels] * settings.mask_convs, dilation=1),
        mask_predictor=MaskRCNNPredictor(channels, channels, classes),
    )
    draw_first_weights(stage)
    return stage


def draw_first_weights(stage: RoIHeads) -> None:
    """Draw what torchvision leaves to PyTorch: the layers of a box head, and its predictor and the masks' biases.

    At first every class is about as likely, and a box stays where its proposal is.
    """
    for layer in stage.box_head.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    for layer, std in ((stage.box_predictor.cls_score, 0.01), (stage.box_predictor.bbox_pred, 0.001)):
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
    for layer in (stage.mask_predictor.conv5_mask, stage.mask_predictor.mask_fcn_logits):
        nn.init.zeros_(layer.bias)


class CascadeHeads(nn.Module):
    """All stages.

    Args:
        settings (`CascadeSettings`): Their settings.
        strides (`Sequence[int]`): Pixels a step of the pyramid's levels to pool from.
    """

    def __init__(self, settings: CascadeSettings, strides: Sequence[int]) -> None:
        super().__init__()
        self.settings = settings
        self.stages = nn.ModuleList(make_stage(settings, number, strides) for number in range(len(settings.ious)))

    def losses(
        self,
        features: OrderedDict[str, Tensor],
        proposals: list[Tensor],
        sizes: list[tuple[int, int]],
        targets: list[Objects],
    ) -> dict[str, Tensor]:
        """Weighted losses of every stage.

        Args:
            features (`OrderedDict[str, Tensor]`): The pyramid.
            proposals (`list[Tensor]`): By image `(N, 4)`.
            sizes (`list[tuple[int, int]]`): Heights and widths of the images.
            targets (`list[Objects]`): By image `boxes`, `labels` from 1, `masks` `(N, H, W)`.
        """
        losses: dict[str, Tensor] = {}
        stage: RoIHeads
        for number, (stage, weight) in enumerate(zip(self.stages, self.settings.loss_weights, strict=True)):
            sampled, matched, labels, _ = stage.select_training_samples(list(proposals), targets)
            logits, boxes = self._boxes(stage, features, sampled, sizes)
            flat_labels = torch.cat(labels)
            parts = {
                "class": F.cross_entropy(logits, flat_labels),
                "box": self.settings.box_loss_weight * _box_loss(boxes, flat_labels, matched, targets),
                "mask": _mask_loss(stage, features, sampled, matched, labels, sizes, targets),
            }
            losses |= {f"stage{number + 1}_{name}": weight * value for name, value in parts.items()}
            classes = torch.where(flat_labels > 0, flat_labels, logits[:, 1:].argmax(1) + 1)
            kept = [~_is_target(rois, m, t) for rois, m, t in zip(sampled, matched, targets, strict=True)]
            proposals = _refine(boxes, classes, sampled, sizes, kept)
        return losses

    def detect(
        self, features: OrderedDict[str, Tensor], proposals: list[Tensor], sizes: list[tuple[int, int]]
    ) -> list[Objects]:
        """Detections by image: boxes of the last stage, logits and masks averaged over the stages. Labels from 1."""
        by_stage = []
        stage: RoIHeads
        for number, stage in enumerate(self.stages):
            logits, boxes, offsets, rois = self._boxes_and_offsets(stage, features, proposals, sizes)
            by_stage.append(logits)
            if number + 1 < len(self.stages):
                proposals = _refine(boxes, logits[:, 1:].argmax(1) + 1, rois, sizes)
        found = stage.postprocess_detections(torch.stack(by_stage).mean(0), offsets, rois, sizes)
        detections = [{"boxes": b, "scores": s, "labels": n} for b, s, n in zip(*found, strict=True)]
        masks = self._masks(features, found[0], found[2], sizes)
        return [{**one, "masks": mask} for one, mask in zip(detections, masks, strict=True)]

    def _boxes(self, stage: RoIHeads, features, rois, sizes) -> tuple[Tensor, Tensor]:
        logits, boxes, *_ = self._boxes_and_offsets(stage, features, rois, sizes)
        return logits, boxes

    def _boxes_and_offsets(
        self, stage: RoIHeads, features, rois, sizes
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Logits `(R, classes + 1)`, decoded boxes `(R, classes + 1, 4)`, offsets, and the regions they are of."""
        pooled = stage.box_head(stage.box_roi_pool(features, rois, sizes))
        logits, offsets = stage.box_predictor(pooled)
        return logits.float(), stage.box_coder.decode(offsets.float(), rois), offsets.float(), rois

    def _masks(self, features, boxes: list[Tensor], labels: list[Tensor], sizes) -> list[Tensor]:
        """Masks `(N, 1, M, M)` in [0, 1] of detections, averaged over the stages."""
        by_stage = []
        stage: RoIHeads
        for stage in self.stages:
            logits = stage.mask_predictor(stage.mask_head(stage.mask_roi_pool(features, boxes, sizes)))
            by_stage.append(maskrcnn_inference(logits.float(), labels))
        return [torch.stack(masks).mean(0) for masks in zip(*by_stage, strict=True)]


def _box_loss(boxes: Tensor, labels: Tensor, matched: list[Tensor], targets: list[Objects]) -> Tensor:
    """Generalised IoU loss of the positives' boxes `(R, classes + 1, 4)` of their class, summed over R."""
    wanted = torch.cat([_matched_boxes(target["boxes"], rows) for target, rows in zip(targets, matched, strict=True)])
    positive = torch.where(labels > 0)[0]
    own = boxes[positive, labels[positive]]
    return generalized_box_iou_loss(own, wanted[positive].to(own.dtype), reduction="sum") / max(len(labels), 1)


def _matched_boxes(boxes: Tensor, rows: Tensor) -> Tensor:
    """Rows of `boxes`; zeros for an image without objects, none of whose proposals is positive."""
    return boxes[rows] if len(boxes) else boxes.new_zeros(len(rows), 4)


def _mask_loss(stage: RoIHeads, features, rois, matched, labels, sizes, targets: list[Objects]) -> Tensor:
    """Binary cross entropy of the masks of the positive proposals, of their class."""
    positive = [torch.where(one > 0)[0] for one in labels]
    positive_rois = [boxes[rows] for boxes, rows in zip(rois, positive, strict=True)]
    logits = stage.mask_predictor(stage.mask_head(stage.mask_roi_pool(features, positive_rois, sizes))).float()
    if not len(logits):
        return logits.sum() * 0
    wanted = [
        cut_masks(target["masks"], boxes, objects[rows], logits.shape[-1])
        for target, boxes, objects, rows in zip(targets, positive_rois, matched, positive, strict=True)
    ]
    classes = torch.cat([one[rows] for one, rows in zip(labels, positive, strict=True)])
    own = logits[torch.arange(len(logits), device=logits.device), classes]
    return F.binary_cross_entropy_with_logits(own, torch.cat(wanted))


def cut_masks(masks: Tensor, boxes: Tensor, objects: Tensor, side: int) -> Tensor:
    """The part of each object's mask inside a box, `(N, side, side)`: 1 where at least half of a place is object.

    Args:
        masks (`Tensor`): `(objects, H, W)` of an image.
        boxes (`Tensor`): `(N, 4)`.
        objects (`Tensor`): `(N,)`, the object whose mask a box is to find.
        side (`int`): Rows and columns.
    """
    regions = torch.cat([objects[:, None].to(boxes.dtype), boxes], 1)
    share = roi_align(masks[:, None].to(boxes.dtype), regions, side, 1.0, sampling_ratio=0, aligned=True)
    return (share[:, 0] >= 0.5).to(boxes.dtype)


def _is_target(rois: Tensor, matched: Tensor, target: Objects) -> Tensor:
    """Which of the regions `(R, 4)` are objects' own boxes, which torchvision adds to the proposals of every stage."""
    return (rois == _matched_boxes(target["boxes"], matched).to(rois.dtype)).all(1)


def _refine(
    boxes: Tensor,
    classes: Tensor,
    rois: list[Tensor],
    sizes: list[tuple[int, int]],
    kept: list[Tensor] | None = None,
) -> list[Tensor]:
    """Proposals of the next stage: each region's box of its class, inside the image.

    Without `kept` every region stays, so that the stages' scores can be averaged.
    """
    own = boxes[torch.arange(len(boxes), device=boxes.device), classes].detach()
    proposals = [
        clip_boxes_to_image(b, size) for b, size in zip(own.split([len(r) for r in rois]), sizes, strict=True)
    ]
    if kept is None:
        return proposals
    proposals = [boxes[mask] for boxes, mask in zip(proposals, kept, strict=True)]
    return [boxes[remove_small_boxes(boxes, min_size=1e-2)] for boxes in proposals]
