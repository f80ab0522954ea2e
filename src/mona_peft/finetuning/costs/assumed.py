"""What a plan assumes of detectors, whose losses go by values that fake tensors do not have.

Boxes and labels are true tensors, so anchors are matched to them as in training. What goes by predictions is assumed:
a prediction is found for each object, and proposals and positives are as many as the detector takes at most. Which
ones they are does not change the memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection.roi_heads import RoIHeads
from transformers.loss import loss_deformable_detr, loss_for_object_detection
from transformers.models.mask2former import modeling_mask2former

from mona_peft.finetuning.models.anchors import ProposalNetwork
from mona_peft.finetuning.models.detector_base import Objects

aten = torch.ops.aten
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)


def assume_objects(target: Objects, size: Tensor, count: int) -> Objects:
    """So many objects in an image, in the middle of it.

    Args:
        target (`Objects`): Has masks if the objects are to have any.
        size (`Tensor`): Height and width of the image.
        count (`int`): Objects.
    """
    height, width = size.tolist()
    boxes = torch.tensor([[width / 4, height / 4, width * 3 / 4, height * 3 / 4]]).repeat(count, 1)
    masks = {"masks": target["masks"].new_zeros(count, *target["masks"].shape[1:])} if "masks" in target else {}
    return {"boxes": boxes, "labels": torch.zeros(count, dtype=torch.long), **masks}


@contextmanager
def assumed() -> Iterator[None]:
    """Let losses of detectors run where predictions are fake tensors and targets are not."""
    replaced = (
        (loss_for_object_detection, "linear_sum_assignment", _first_ones),
        (loss_deformable_detr, "linear_sum_assignment", _first_ones),
        (modeling_mask2former, "linear_sum_assignment", _first_ones),
        (ProposalNetwork, "filter_proposals", _first_proposals),
        (RoIHeads, "select_training_samples", _most_samples),
    )
    with ExitStack() as stack:
        for owner, name, function in replaced:
            stack.enter_context(mock.patch.object(owner, name, function))
        stack.enter_context(AssumedConditions())
        yield


class AssumedConditions(TorchDispatchMode):
    """Conditions on fake tensors hold, for every element; those on true tensors are known, and select of fake ones."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten._local_scalar_dense.default and _is_unknown(args[0]):
            return True
        if func is aten.nonzero.default:
            return _places(args[0])
        if func in INDEXING:
            args = (args[0], [place for index in args[1] for place in _integers(index)], *args[2:])
        return func(*args, **(kwargs or {}))


def _is_unknown(condition: Tensor) -> bool:
    return isinstance(condition, FakeTensor) and condition.dtype == torch.bool


def _places(condition: Tensor) -> Tensor:
    """Where a condition holds, `(N, dimensions)`."""
    return (torch.ones(condition.shape) if _is_unknown(condition) else condition).nonzero()


def _integers(index: Tensor | None) -> list[Tensor | None]:
    """An index by integers, for each dimension of one by a mask."""
    return list(_places(index).unbind(1)) if index is not None and index.dtype == torch.bool else [index]


def _first_ones(cost: Tensor) -> tuple[range, range]:
    """A query for each object."""
    return range(min(cost.shape)), range(min(cost.shape))


def _first_proposals(
    self: ProposalNetwork, proposals: Tensor, objectness: Tensor, sizes: list[tuple[int, int]], anchors: list[int]
) -> tuple[list[Tensor], list[Tensor]]:
    """As many proposals `(B, N, 4)` of each image as are kept at most; their scores are not needed."""
    most = min(self.post_nms_top_n(), sum(min(self.pre_nms_top_n(), count) for count in anchors))
    return [image[:most].clone() for image in proposals], []


def _most_samples(
    self: RoIHeads, proposals: list[Tensor], targets: list[Objects]
) -> tuple[list[Tensor], list[Tensor], list[Tensor], None]:
    """As many regions of each image as are sampled at most, as many of them positive, none an object's own box."""
    regions, matched, labels = [], [], []
    size, share = self.fg_bg_sampler.batch_size_per_image, self.fg_bg_sampler.positive_fraction
    for boxes, target in zip(proposals, targets, strict=True):
        count = min(size, len(boxes) + len(target["boxes"]))
        regions.append((target["boxes"][:1] / 2).repeat(count, 1))
        matched.append(torch.zeros(count, dtype=torch.long))
        labels.append((torch.arange(count) < int(size * share)).long())
    return regions, matched, labels, None
