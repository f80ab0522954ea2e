"""The parts of the detectors against their definitions."""

import itertools
import math

import pytest
import torch
from torch import nn
from torchvision.ops import box_iou
from transformers import Dinov2Config, SwinConfig

from mona_peft.finetuning.models.cascade_heads import CascadeHeads, CascadeSettings, _box_loss, _refine
from mona_peft.finetuning.models.cascade_mask_rcnn import (
    CascadeMaskRCNNConfig,
    CascadeMaskRCNNForInstanceSegmentation,
)
from mona_peft.finetuning.models.detector_base import image_list
from mona_peft.finetuning.models.outputs import find_detections, pixel_mask
from mona_peft.finetuning.models.retinanet import RetinaNetConfig, RetinaNetForObjectDetection
from mona_peft.finetuning.models.sliding import slide_logits, window_starts
from tests.finetuning.tasks.tiny_dense import HEADS


def retinanet(**options):
    backbone = SwinConfig(
        image_size=64,
        patch_size=4,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_features=["stage2", "stage3", "stage4"],
    )
    return RetinaNetForObjectDetection(RetinaNetConfig(backbone_config=backbone, **{"fpn_channels": 16, **options}))


def test_the_pyramid_of_the_paper():
    """Stages 2 to 4 and two levels above, P6 from the last map even where its channels are the pyramid's."""
    model = retinanet(fpn_channels=64)
    assert model.backbone.channels == [16, 32, 64]
    levels = model.pyramid(torch.rand(1, 3, 256, 256))
    assert [feature.shape[-1] for feature in levels.values()] == [32, 16, 8, 4, 2]
    assert model.strides == [8, 16, 32, 64, 128]
    assert not model.neck.extra_blocks.use_P5
    seen = []
    model.neck.extra_blocks.p6.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    pixels = torch.rand(1, 3, 64, 64)
    model.pyramid(pixels)
    assert torch.allclose(seen[0], model.backbone(pixels).feature_maps[-1])


DETECTORS = {
    "retinanet": (RetinaNetConfig, RetinaNetForObjectDetection, [14, 28, 56], {"norm_groups": 4}),
    "cascade": (CascadeMaskRCNNConfig, CascadeMaskRCNNForInstanceSegmentation, [14, 28], {"heads": HEADS}),
}


def on_plain_vit(name, out_indices):
    config_class, model_class, _, options = DETECTORS[name]
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "mlp_ratio": 1}
    backbone = Dinov2Config(**sizes, image_size=112, patch_size=14, out_indices=out_indices)
    torch.manual_seed(0)
    return model_class(config_class(backbone_config=backbone, num_labels=2, fpn_channels=16, **options))


@pytest.mark.parametrize("name", DETECTORS)
def test_a_plain_vit_gives_one_level_and_the_detector_the_coarser_ones(name):
    model = on_plain_vit(name, [3])
    pixels = torch.rand(2, 3, 112, 140)
    strides = DETECTORS[name][2]
    assert model.strides == strides
    levels = list(model.pyramid(pixels).values())
    assert [tuple(level.shape[-2:]) for level in levels] == [(8, 10), (4, 5), (2, 3)][: len(strides)]
    box = torch.tensor([[14.0, 28.0, 70.0, 84.0]])
    masks = torch.zeros(1, 112, 140, dtype=torch.uint8)
    masks[:, 28:84, 14:70] = 1
    targets = [{"boxes": box, "labels": torch.tensor([1]), "masks": masks}] * 2
    sizes = torch.tensor([[112, 140]] * 2)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model.train()(pixels, sizes, targets).loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = model.eval()(pixels, sizes).detections[0]
    best = found["scores"].argmax()
    assert found["labels"][best] == 1 and box_iou(found["boxes"][best][None], box).item() > 0.5


def test_maps_of_one_size_are_no_levels_of_a_pyramid():
    with pytest.raises(ValueError, match=r"dinov2 model are all of one size.*--out_indices 3\); \[1, 2, 3\] were"):
        on_plain_vit("retinanet", [1, 2, 3])


def test_first_weights_of_the_pyramid_are_those_of_mmdetection():
    """`Xavier`, uniform: the bound goes by what comes in and what goes out, of every layer, P6 and P7 too."""
    torch.manual_seed(0)
    model = retinanet(fpn_channels=64)
    layers = [module for module in model.neck.modules() if isinstance(module, nn.Conv2d)]
    assert len(layers) == 3 + 3 + 2
    for layer in layers:
        places = layer.kernel_size[0] ** 2
        bound = math.sqrt(6 / (places * (layer.in_channels + layer.out_channels)))
        assert 0.98 * bound < layer.weight.abs().max().item() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1) and not layer.bias.any()


def test_anchors_are_those_of_the_paper():
    sizes = retinanet().detector.anchor_generator.sizes
    expected = [[4 * stride * 2 ** (octave / 3) for octave in range(3)] for stride in (8, 16, 32, 64, 128)]
    assert [list(level) for level in sizes] == [pytest.approx(level) for level in expected]


def test_anchors_stand_at_the_strides_of_the_paper_whatever_the_padding():
    """As mmdetection's AnchorGenerator: sides stride * 4 * 2^(n/3) by ratio, centres at multiples of the stride."""
    model = retinanet()
    pixels = torch.zeros(1, 3, 608, 800)  # of 608 and 800 pixels P6 has 10 and 13 places, P7 5 and 7
    levels = list(model.pyramid(pixels).values())
    assert [tuple(level.shape[-2:]) for level in levels] == [(76, 100), (38, 50), (19, 25), (10, 13), (5, 7)]
    found = model.detector.anchor_generator(image_list(pixels, torch.tensor([[600, 800]])), levels)[0]
    expected = []
    for stride, (rows, columns) in zip((8, 16, 32, 64, 128), [level.shape[-2:] for level in levels], strict=True):
        for row, column in itertools.product(range(rows), range(columns)):
            for ratio, octave in itertools.product((0.5, 1.0, 2.0), range(3)):
                side = stride * 4 * 2 ** (octave / 3)
                width, height = side / math.sqrt(ratio), side * math.sqrt(ratio)
                x, y = column * stride, row * stride
                expected.append((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    assert torch.allclose(found, torch.tensor(expected), atol=1e-3)


def test_there_is_no_relu_before_p7():
    """mmdetection's FPN with `relu_before_extra_convs=False`: what is negative in P6 reaches P7."""
    top = retinanet().neck.extra_blocks
    last = torch.randn(1, 64, 9, 7)
    maps, names = top([torch.zeros(1, 16, 9, 7)], [last], ["0"])
    sixth = nn.functional.conv2d(last, top.p6.weight, top.p6.bias, stride=2, padding=1)
    seventh = nn.functional.conv2d(sixth, top.p7.weight, top.p7.bias, stride=2, padding=1)
    assert (sixth < 0).any() and names == ["0", "p6", "p7"]
    assert torch.allclose(maps[1], sixth, atol=1e-6) and torch.allclose(maps[2], seventh, atol=1e-6)


def test_padding_is_no_part_of_an_image():
    model = retinanet(score_threshold=0.0).eval()
    with torch.no_grad():
        found = model(torch.rand(1, 3, 64, 96), torch.tensor([[50, 70]])).detections[0]
    assert len(found["boxes"]) and (found["boxes"][:, 2] <= 70).all() and (found["boxes"][:, 3] <= 50).all()
    mask = pixel_mask(torch.zeros(1, 3, 64, 96), torch.tensor([[50, 70]]))
    assert mask.sum() == 50 * 70 and mask[0, :50, :70].all()


def test_boxes_are_given_in_pixels_of_the_original():
    model = retinanet(score_threshold=0.0).eval()
    batch = {"pixel_values": torch.rand(1, 3, 64, 64), "sizes": torch.tensor([[64, 48]])}
    with torch.no_grad():
        inner = model(**batch).detections[0]["boxes"]
        outer = find_detections(model, {**batch, "original_sizes": torch.tensor([[128, 144]])})[0]["boxes"]
    assert torch.allclose(outer, inner * torch.tensor([3.0, 2.0, 3.0, 2.0]))


def test_cascade_matches_at_rising_overlaps_and_weighs_its_stages():
    settings = CascadeSettings(num_classes=2, channels=8, box_convs=0, box_features=8, mask_convs=1, head_norm="none")
    heads = CascadeHeads(settings, [4])
    assert [stage.proposal_matcher.high_threshold for stage in heads.stages] == [0.5, 0.6, 0.7]
    assert [stage.box_predictor.bbox_pred.out_features for stage in heads.stages] == [
        12,
        12,
        12,
    ]  # a box for each class
    features = {"0": torch.rand(1, 8, 16, 16)}
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[0, 8:40, 8:40] = 1
    target = {"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([2]), "masks": masks}
    losses = []
    for scale in ((1.0, 0.5, 0.25), (1.0, 1.0, 1.0)):
        torch.manual_seed(0)
        heads = CascadeHeads(CascadeSettings(**{**vars(settings), "loss_weights": scale}), [4])
        torch.manual_seed(0)
        proposals = [torch.tensor([[8.0, 8, 40, 40], [6, 6, 40, 40], [30, 30, 60, 60]])]
        losses.append(heads.losses(features, proposals, [(64, 64)], [target]))
    for number, weight in enumerate((1.0, 0.5, 0.25), 1):
        for part in ("class", "box", "mask"):
            name = f"stage{number}_{part}"
            assert losses[0][name].item() == pytest.approx(weight * losses[1][name].item(), rel=1e-6)


def test_the_box_loss_is_that_of_the_true_class_alone():
    boxes = torch.zeros(2, 3, 4)
    boxes[:] = torch.tensor([50.0, 50, 60, 60])
    boxes[0, 2] = torch.tensor([0.0, 0, 10, 10])
    target = {"boxes": torch.tensor([[0.0, 0, 10, 10]])}
    matched = [torch.zeros(2, dtype=torch.long)]
    assert _box_loss(boxes, torch.tensor([2, 0]), matched, [target]).item() == pytest.approx(0, abs=1e-6)
    # Disjoint boxes of 10 x 10 in a hull of 60 x 60: 1 - (0 - (3600 - 200) / 3600), over two proposals.
    wrong = _box_loss(boxes, torch.tensor([1, 0]), matched, [target]).item()
    assert wrong == pytest.approx((1 + 3400 / 3600) / 2, rel=1e-5)


def test_refined_boxes_stay_inside_and_keep_their_count():
    boxes = torch.tensor([[[0.0, 0, 1, 1], [-5, -5, 30, 30]], [[0, 0, 1, 1], [10, 10, 10, 20]]])
    rois = [torch.zeros(1, 4), torch.zeros(1, 4)]
    refined = _refine(boxes, torch.tensor([1, 1]), rois, [(20, 25), (20, 25)])
    assert [one.tolist() for one in refined] == [[[0, 0, 25, 20]], [[10, 10, 10, 20]]]
    kept = _refine(boxes, torch.tensor([1, 1]), rois, [(20, 25), (20, 25)], [torch.tensor([True])] * 2)
    assert [len(one) for one in kept] == [1, 0]  # an empty box trains nothing


class Counting(nn.Module):
    """Logits that are the pixels themselves, so that any window gives the same at the same place."""

    def __init__(self):
        super().__init__()
        self.windows = []

    def forward(self, pixel_values):
        self.windows.append(tuple(pixel_values.shape[-2:]))
        return type("Output", (), {"logits": pixel_values[:, :2]})()


def test_sliding_covers_every_pixel():
    assert window_starts(100, 40, 25) == [0, 25, 50, 60] and window_starts(30, 40, 25) == [0]
    model, pixels = Counting(), torch.rand(3, 70, 50)
    logits = slide_logits(model, pixels, 40, 25)
    assert torch.allclose(logits, pixels[:2])
    assert model.windows == [(40, 40)] * (3 * 2)
    small = torch.rand(3, 20, 30)
    assert torch.allclose(slide_logits(Counting(), small, 40, 25), small[:2])
    with pytest.raises(ValueError, match="stride"):
        slide_logits(model, pixels, 40, 41)
