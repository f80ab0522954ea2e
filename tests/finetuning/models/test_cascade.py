"""Cascade Mask R-CNN's parts against mmdetection's rules, each computed by hand."""

import itertools
import math

import pytest
import torch
from torch import nn
from transformers import SwinConfig

from mona_peft.finetuning.models.anchors import find_inside
from mona_peft.finetuning.models.cascade_heads import CascadeHeads, CascadeSettings, cut_masks
from mona_peft.finetuning.models.cascade_mask_rcnn import (
    CascadeMaskRCNNConfig,
    CascadeMaskRCNNForInstanceSegmentation,
)
from mona_peft.finetuning.models.head_norms import SyncBatchNorm2d
from mona_peft.finetuning.models.roi_pooling import RegionPooling
from tests.finetuning.tasks.tiny_dense import HEADS


def cascade(**options):
    backbone = SwinConfig(
        image_size=64,
        patch_size=4,
        embed_dim=8,
        depths=[1, 1, 1],
        num_heads=[1, 1, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3"],
    )
    settings = {"fpn_channels": 16, "proposals": 20, "heads": HEADS, **options}
    torch.manual_seed(0)
    return CascadeMaskRCNNForInstanceSegmentation(CascadeMaskRCNNConfig(backbone_config=backbone, **settings))


def sample(feature, y, x):
    """A map `(C, H, W)` at a place between its pixels; zero beyond a pixel outside, as RoIAlign defines it."""
    rows, columns = feature.shape[1:]
    if y < -1 or y > rows or x < -1 or x > columns:
        return torch.zeros(len(feature))
    y, x = min(max(y, 0), rows - 1), min(max(x, 0), columns - 1)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
    low, high = (1 - (y - top)) * feature[:, top], (y - top) * feature[:, bottom]
    return (low[:, left] + high[:, left]) * (1 - (x - left)) + (low[:, right] + high[:, right]) * (x - left)


def align_by_hand(feature, box, side, stride):
    """Aligned RoIAlign: the box over the stride less half a pixel, `ceil(bin)` samples along each side of a bin."""
    x1, y1, x2, y2 = (value / stride - 0.5 for value in box)
    height, width = (y2 - y1) / side, (x2 - x1) / side
    counts = math.ceil((y2 - y1) / side), math.ceil((x2 - x1) / side)
    result = torch.zeros(len(feature), side, side)
    for row, column in itertools.product(range(side), range(side)):
        for i, j in itertools.product(range(counts[0]), range(counts[1])):
            y = y1 + (row + (i + 0.5) / counts[0]) * height
            x = x1 + (column + (j + 0.5) / counts[1]) * width
            result[:, row, column] += sample(feature, y, x) / (counts[0] * counts[1])
    return result


def test_regions_are_pooled_aligned_and_adaptively():
    torch.manual_seed(0)
    features = {str(level): torch.randn(2, 3, 128 // stride, 160 // stride) for level, stride in enumerate((4, 8, 16))}
    features["pool"] = torch.full((2, 3, 4, 5), torch.nan)  # for proposals alone
    boxes = [torch.tensor([[3.0, 5, 50, 33], [0, 0, 120, 126]]), torch.tensor([[7.5, 9.25, 155, 127]])]
    pooled = RegionPooling([4, 8, 16], 7)(features, boxes)
    for found, (image, box) in zip(pooled, [(0, boxes[0][0]), (0, boxes[0][1]), (1, boxes[1][0])], strict=True):
        side = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
        level = min(max(math.floor(math.log2(side / 56 + 1e-6)), 0), 2)
        expected = align_by_hand(features[str(level)][image], box.tolist(), 7, 4 * 2**level)
        assert torch.allclose(found, expected, atol=1e-5)


def test_the_level_of_a_region():
    """mmdetection's `SingleRoIExtractor` with `finest_scale=56`: one level more at 112, 224 and 448 pixels."""
    sides = torch.tensor([1.0, 56, 111.9, 112, 223.9, 224, 447.9, 448, 5000])
    boxes = torch.stack([torch.zeros(9), torch.zeros(9), sides, sides], 1)
    assert RegionPooling([4, 8, 16, 32], 7).choose_levels(boxes).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_no_region_at_all_is_pooled():
    features = {"0": torch.randn(1, 3, 8, 8, requires_grad=True)}
    pooled = RegionPooling([4], 7)(features, [torch.zeros(0, 4)])
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()


def iou(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - shared)


def assign_by_hand(anchors, objects, height, width):
    """`MaxIoUAssigner` with 0.7, 0.3 and `min_pos_iou=0.3` over the anchors inside: label and object by anchor."""
    inside = [a[0] >= 0 and a[1] >= 0 and a[2] < width and a[3] < height for a in anchors]
    labels, matched = [-1] * len(anchors), [None] * len(anchors)
    for number, anchor in enumerate(anchors):
        if not inside[number]:
            continue
        overlaps = [iou(anchor, one) for one in objects]
        if max(overlaps) >= 0.7:
            labels[number], matched[number] = 1, overlaps.index(max(overlaps))
        elif max(overlaps) < 0.3:
            labels[number] = 0
    for index, one in enumerate(objects):
        overlaps = [iou(anchor, one) if inside[number] else -1 for number, anchor in enumerate(anchors)]
        if max(overlaps) >= 0.3:
            for number, overlap in enumerate(overlaps):
                if overlap == max(overlaps):
                    labels[number], matched[number] = 1, index
    return labels, matched


def test_objects_are_assigned_to_anchors_as_in_mmdetection():
    network = cascade().proposal_network
    objects = [[10, 10, 42, 42], [60, 20, 76, 36], [50, 50, 100, 68], [0, 0, 5, 5], [11, 11, 43, 43]]
    anchors = [
        [10, 10, 42, 42],  # the first object's
        [12, 12, 44, 44],
        [-1, 8, 40, 40],  # over the border: of no consequence, however good
        [60, 20, 92, 52],  # the second object's best, at 0.25: below the floor
        [64, 44, 96, 76],  # the third object's best, above the floor
        [64, 44, 96, 90],
        [70, 40, 102, 72],  # over the right border of the image, which is 100 wide under its padding
        [30, 50, 62, 82],
        [11, 11, 43, 43],  # the last object's
        [0, 0, 32, 32],
    ]
    target = {"boxes": torch.tensor(objects).float(), "size": torch.tensor([96, 100])}
    (labels,), (boxes,) = network.assign_targets_to_anchors([torch.tensor(anchors).float()], [target])
    expected, matched = assign_by_hand(anchors, objects, 96, 100)
    assert labels.tolist() == expected
    assert {0, 1, -1} == set(expected) and expected[3] == 0 and expected[4] == 1 and expected[2] == expected[6] == -1
    for row, index in enumerate(matched):
        if index is not None:
            assert boxes[row].tolist() == objects[index]
    nothing = {"boxes": torch.zeros(0, 4), "size": torch.tensor([96, 100])}
    (labels,), _ = network.assign_targets_to_anchors([torch.tensor(anchors).float()], [nothing])
    assert labels.tolist() == [-1 if number in (2, 6) else 0 for number in range(10)]


@pytest.mark.parametrize("seed", range(3))
def test_random_objects_are_assigned_as_in_mmdetection(seed):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(-8, 60, (60, 2), generator=generator)
    anchors = torch.cat([corner, corner + torch.randint(6, 30, (60, 2), generator=generator)], 1)
    objects = anchors[:4] + torch.randint(-3, 4, (4, 4), generator=generator)
    target = {"boxes": objects.float(), "size": torch.tensor([64, 70])}
    (labels,), (boxes,) = cascade().proposal_network.assign_targets_to_anchors([anchors.float()], [target])
    expected, matched = assign_by_hand(anchors.tolist(), objects.tolist(), 64, 70)
    assert labels.tolist() == expected
    assert all(
        boxes[row].tolist() == objects[index].tolist() for row, index in enumerate(matched) if index is not None
    )


def test_an_image_smaller_than_every_anchor_trains():
    assert find_inside(torch.tensor([[-4.0, -4, 4, 4], [0, 0, 8, 8]]), torch.tensor([5, 5])).all()


def test_proposals_in_training_and_at_test():
    network = cascade(proposals=1000).proposal_network
    counts = [(network.train(mode).pre_nms_top_n(), network.train(mode).post_nms_top_n()) for mode in (True, False)]
    assert counts == [(2000, 2000), (1000, 1000)]
    assert cascade(training_proposals=30).proposal_network.train().post_nms_top_n() == 30


def test_first_weights_are_those_of_mmdetection():
    """`BBoxHead` and `ConvFCBBoxHead`: 0.01 for classes, 0.001 for boxes, Xavier's for the shared layer, no bias."""
    settings = CascadeSettings(num_classes=80, channels=32, box_convs=1, box_features=64, mask_convs=1)
    for stage in CascadeHeads(settings, [4]).stages:
        predictor, shared = stage.box_predictor, stage.box_head[-2]
        bound = math.sqrt(6 / (shared.in_features + shared.out_features))
        assert predictor.cls_score.weight.std().item() == pytest.approx(0.01, rel=0.1)
        assert predictor.bbox_pred.weight.std().item() == pytest.approx(0.001, rel=0.1)
        assert 0.99 * bound < shared.weight.abs().max() <= bound
        masks = stage.mask_predictor
        layers = (predictor.cls_score, predictor.bbox_pred, shared, masks.conv5_mask, masks.mask_fcn_logits)
        assert not any(layer.bias.any() for layer in layers)


#: `target_stds` of the three stages in the official configuration.
STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))


@pytest.mark.parametrize(("number", "stds"), enumerate(STDS))
def test_boxes_are_decoded_as_in_mmdetection(number, stds):
    """Centres move by shares of the side, sides grow by powers of e; offsets count in standard deviations."""
    torch.manual_seed(number)
    settings = CascadeSettings(num_classes=2, channels=8, box_convs=0, box_features=8, mask_convs=1)
    stage = CascadeHeads(settings, [4]).stages[number]
    corners = torch.rand(5, 2) * 50
    sides, offsets = torch.rand(5, 2) * 40 + 5, torch.randn(5, 4) * 2
    found = stage.box_coder.decode(offsets, [torch.cat([corners, corners + sides], 1)])[:, 0]
    for (x, y), (w, h), (dx, dy, dw, dh), box in zip(
        corners.tolist(), sides.tolist(), offsets.tolist(), found.tolist(), strict=True
    ):
        middle_x, middle_y = x + w / 2 + w * dx * stds[0], y + h / 2 + h * dy * stds[1]
        width, height = w * math.exp(dw * stds[2]), h * math.exp(dh * stds[3])
        expected = [middle_x - width / 2, middle_y - height / 2, middle_x + width / 2, middle_y + height / 2]
        assert box == pytest.approx(expected, abs=1e-3)


def test_logits_are_averaged_over_the_stages():
    """Not probabilities: one sure stage weighs more."""
    settings = CascadeSettings(
        num_classes=2, channels=8, box_convs=0, box_features=8, mask_convs=1, score_threshold=0.0, head_norm="none"
    )
    heads = CascadeHeads(settings, [4]).eval()
    by_stage = iter([torch.tensor([[0.0, 9, 0]]), torch.tensor([[1.0, 0, 2]]), torch.tensor([[0.0, 0, 3]])])
    mean = torch.tensor([[1 / 3, 3.0, 5 / 3]])
    for stage in heads.stages:
        stage.box_predictor.register_forward_hook(lambda module, args, output: (next(by_stage), output[1] * 0))
    with torch.no_grad():
        found = heads.detect({"0": torch.rand(1, 8, 16, 16)}, [torch.tensor([[8.0, 8, 40, 40]])], [(64, 64)])[0]
    scores = dict(zip(found["labels"].tolist(), found["scores"].tolist(), strict=True))
    assert scores == pytest.approx({1: mean.softmax(1)[0, 1].item(), 2: mean.softmax(1)[0, 2].item()})


def test_the_masks_to_learn_are_cut_out_aligned_and_whole():
    """A box as large as what is cut out of it gives the mask's own pixels; halves count as object."""
    torch.manual_seed(0)
    masks = (torch.rand(2, 40, 50) > 0.5).to(torch.uint8)
    boxes = torch.tensor([[5.0, 7, 19, 21], [10, 3, 24, 17]])
    cut = cut_masks(masks, boxes, torch.tensor([1, 0]), 14)
    assert torch.equal(cut[0], masks[1, 7:21, 5:19].float()) and torch.equal(cut[1], masks[0, 3:17, 10:24].float())
    halved = cut_masks(masks, torch.tensor([[5.0, 7, 33, 35]]), torch.tensor([0]), 14)[0]
    assert torch.equal(halved, (nn.functional.avg_pool2d(masks[:1, 7:35, 5:33].float(), 2)[0] >= 0.5).float())
    by_hand = align_by_hand(masks[:1].float(), [2.5, 3.5, 21.25, 30], 7, 1)[0]
    found = cut_masks(masks, torch.tensor([[2.5, 3.5, 21.25, 30]]), torch.tensor([0]), 7)[0]
    assert torch.equal(found, (by_hand >= 0.5).float())


def test_norms_of_the_box_heads():
    kinds = {"batch": nn.BatchNorm2d, "sync": SyncBatchNorm2d, "group": nn.GroupNorm, "none": None}
    for norm, kind in kinds.items():
        model = cascade(head_norm=norm)
        found = {type(m) for m in model.cascade.modules() if hasattr(m, "eps")}
        assert found == ({kind} if kind else set())
        assert CascadeMaskRCNNConfig(**model.config.to_dict()).head_norm == norm
    # Configurations that were saved with the former setting.
    assert cascade(heads={**HEADS, "batch_norm": False}).config.head_norm == "none"
    assert cascade(heads={**HEADS, "batch_norm": True}).config.head_norm == "batch"
    with pytest.raises(ValueError, match="head_norm is 'layer'"):
        cascade(head_norm="layer")
