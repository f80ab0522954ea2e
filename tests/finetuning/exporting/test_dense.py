"""Segmenters and detectors as files: what runs them without this package finds what the package finds."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torchvision.ops import batched_nms, box_convert, clip_boxes_to_image

import mona_peft
from mona_peft.finetuning.data.dense.transforms import DenseSettings
from mona_peft.finetuning.exporting.pictures import photographs
from mona_peft.finetuning.exporting.runtimes import read_facts
from mona_peft.finetuning.methods import apply_method
from mona_peft.finetuning.models.building import build_model
from mona_peft.finetuning.repository import save_repository
from tests.finetuning.tasks.tiny_dense import ARCHITECTURE_OPTIONS, write_swin
from tests.support.models import randomise

pytestmark = pytest.mark.slow  # each graph takes ten to twenty seconds

NAMES = ["sky", "roof", "tree"]
#: Parts with larger random weights, without which all queries find the same, whatever the picture and its padding.
QUERIES = (".decoder.", "query_position", "class_labels_classifier", "bbox_predictor")
PARTS = {"detr": QUERIES, "conditional_detr": QUERIES, "mask2former": ("class_predictor", "mask_embedder")}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """`repository(architecture)`: a folder with a Mona adapter and heads of random weights on a tiny Swin."""
    root = tmp_path_factory.mktemp("dense")
    base = write_swin(root / "base")

    def save(architecture):
        folder = root / architecture
        if not folder.exists():
            torch.manual_seed(0)
            model = build_model(architecture, str(base), NAMES, **ARCHITECTURE_OPTIONS[architecture])
            model = apply_method(model, "mona", bottleneck_dim=4)
            randomise(model, "mona_")
            randomise(model, "head.")
            for part in PARTS.get(architecture, ()):
                randomise(model, part, std=0.5)
            save_repository(model, DenseSettings(64, 64).processor(), folder)
        return folder

    return save


def prepared(picture, facts, multiple=None):
    """A picture as the file says it wants it, in numpy and Pillow, and the factor it was resized by."""
    how = facts["preparation"]
    factor = min(how["short_side"] / min(picture.size), how["long_side"] / max(picture.size))
    width, height = (round(side * factor) for side in picture.size)
    x = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), np.float32) * how["rescale_factor"]
    x = (x - how["image_mean"]) / how["image_std"]
    size = facts["sizes"]
    full = [size["height"], size["width"]] if multiple is None else [-(-s // multiple) * multiple for s in x.shape[:2]]
    canvas = np.zeros((1, 3, *full), np.float32)
    canvas[0, :, :height, :width] = x.transpose(2, 0, 1)
    return canvas, factor


def run(path, **inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, inputs), strict=True))


@pytest.mark.parametrize("architecture", ["upernet", "segformer"])
def test_a_segmenter_finds_what_the_package_finds(repository, tmp_path, architecture):
    path, folder = tmp_path / "rooms.onnx", repository(architecture)
    check = mona_peft.export(folder, path)
    assert check.relative < 1e-4 and check.agreement > 0.999 and check.batches == (1, 3)
    facts = read_facts(path)
    assert facts["labels"] == NAMES and facts["sizes"] == {"height": 64, "width": 64}
    assert facts["inputs"] == ["pixel_values"] and list(facts["outputs"]) == ["logits"]
    picture = photographs()[2]  # square: nothing is padded, here or there
    logits = run(path, pixel_values=prepared(picture, facts)[0])["logits"]
    assert logits.shape == (1, 3, 64, 64)
    full = torch.nn.functional.interpolate(torch.from_numpy(logits), size=picture.size[::-1], mode="bilinear")
    expected = mona_peft.load(folder).predict([picture])[0]["labels"]
    assert len(np.unique(expected)) > 1
    assert (full[0].argmax(0).numpy() == expected).mean() > 0.98  # Pillow rounds resized pixels to whole numbers


def test_candidates_of_a_detector_become_the_boxes_that_the_package_finds(repository, tmp_path):
    path, folder = tmp_path / "boxes.onnx", repository("retinanet")
    check = mona_peft.export(folder, path)
    assert check.relative < 1e-4 and check.agreement > 0.999
    facts, picture = read_facts(path), photographs()[2]
    pixels, factor = prepared(picture, facts)
    outputs = {name: torch.from_numpy(value[0]) for name, value in run(path, pixel_values=pixels).items()}
    scores = outputs["logits"].sigmoid()
    candidates, labels = (scores > 0.05).nonzero(as_tuple=True)
    boxes = clip_boxes_to_image(outputs["boxes"][candidates], (64, 64))
    kept = batched_nms(boxes, scores[candidates, labels], labels, 0.5)[:100]
    expected = mona_peft.load(folder).predict([picture], threshold=0.05)[0]
    assert len(kept) == len(expected["boxes"]) > 5
    np.testing.assert_allclose(scores[candidates, labels][kept], expected["scores"], atol=0.01)
    best = boxes[kept][:3] / factor
    np.testing.assert_allclose(best, expected["boxes"][:3], atol=0.02 * max(picture.size))


@pytest.mark.parametrize("architecture", ["detr", "conditional_detr"])
def test_queries_become_the_boxes_that_the_package_finds(repository, tmp_path, architecture):
    path, folder = tmp_path / "queries.onnx", repository(architecture)
    check = mona_peft.export(folder, path)
    assert check.relative < 1e-4 and check.agreement > 0.999 and check.batches == (1, 3)
    facts, picture = read_facts(path), photographs()[0]  # wider than high: the frame below it is padding
    assert facts["inputs"] == ["pixel_values", "pixel_mask"] and facts["labels"] == NAMES
    pixels, factor = prepared(picture, facts)
    height, width = (round(side * factor) for side in (picture.height, picture.width))
    mask = np.zeros((1, *pixels.shape[-2:]), np.int64)
    mask[:, :height, :width] = 1
    assert height < width == mask.shape[2]
    outputs = {
        name: torch.from_numpy(value[0]) for name, value in run(path, pixel_values=pixels, pixel_mask=mask).items()
    }
    logits, boxes = outputs["logits"], box_convert(outputs["boxes"], "cxcywh", "xyxy")
    boxes = clip_boxes_to_image(boxes * torch.tensor(2 * picture.size), picture.size[::-1])
    if architecture == "detr":
        scores, labels = logits.softmax(-1)[:, :-1].max(-1)
    else:
        scores, flat = logits.sigmoid().flatten().topk(logits.numel())
        boxes, labels = boxes[flat // len(NAMES)], flat % len(NAMES)
    expected = mona_peft.load(folder).predict([picture], threshold=0.0)[0]
    assert len(scores) == len(expected["scores"]) == (8 if architecture == "detr" else 24)
    order, theirs = scores.argsort(descending=True), expected["scores"].argsort()[::-1]
    np.testing.assert_allclose(scores[order], expected["scores"][theirs], atol=0.01)
    np.testing.assert_allclose(boxes[order][0], expected["boxes"][theirs[0]], atol=0.02 * max(picture.size))
    assert labels[order][0] == expected["labels"][theirs[0]]
    assert expected["boxes"].std(0).max() > 0.01 * max(picture.size)  # the queries do not all find the same
    unmasked = run(path, pixel_values=pixels, pixel_mask=np.ones_like(mask))
    assert abs(unmasked["boxes"][0] - outputs["boxes"].numpy()).max() > 0.01


def test_masks_of_queries_become_those_that_the_package_finds(repository, tmp_path):
    path, folder = tmp_path / "masks.onnx", repository("mask2former")
    check = mona_peft.export(folder, path)
    assert check.relative < 1e-4 and check.agreement > 0.999
    facts, picture = read_facts(path), photographs()[2]
    assert facts["inputs"] == ["pixel_values"] and list(facts["outputs"]) == ["logits", "masks"]
    outputs = run(path, pixel_values=prepared(picture, facts)[0])
    masks = torch.from_numpy(outputs["masks"])
    assert masks.shape == (1, 8, 32, 32)  # the patches of the first stage
    scores = torch.from_numpy(outputs["logits"][0]).softmax(-1)[:, :-1]
    full = torch.nn.functional.interpolate(masks, size=(64, 64), mode="bilinear")
    full = torch.nn.functional.interpolate(full, size=picture.size[::-1], mode="bilinear")[0]
    inside = full.sigmoid().masked_fill(full <= 0, 0).sum((1, 2)) / (full > 0).sum((1, 2)).clamp(min=1)
    best = int((scores.amax(1) * inside).argmax())
    expected = mona_peft.load(folder).predict([picture], threshold=0.0)[0]
    first = expected["scores"].argmax()
    assert expected["scores"][first] == pytest.approx(float(scores[best].max() * inside[best]), abs=0.01)
    assert expected["labels"][first] == scores[best].argmax()
    assert (expected["masks"][first] == (full[best] > 0).numpy()).mean() > 0.98


def test_two_stages_are_refused_with_the_reason(repository, tmp_path):
    message = "CascadeMaskRCNNForInstanceSegmentation cannot be exported: its second stage .* detr, .* can"
    with pytest.raises(ValueError, match=message):
        mona_peft.export(repository("cascade_mask_rcnn"), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
