"""What each method trains in each backbone, held to formulas written from the papers."""

import warnings

import pytest
import torch
from transformers import SwinBackbone, SwinConfig

from mona_peft.finetuning.costs.counts import BACKBONES, count_method, format_counts
from mona_peft.finetuning.methods import METHODS, apply_method
from mona_peft.summary import summary

SWINS = {
    "swin-tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "swin-base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "swin-large": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}
VIT = (768, 12)

# What one block of m channels gets.
PER_BLOCK = {
    "bottleneck": lambda m: 2 * (2 * m * 64 + m + 64),
    "adaptformer": lambda m: 2 * m * 64 + m + 64,
    "lorand": lambda m: 2 * (2 * 2 * 8 * (m + m // 2) + 2 * 8**2),
    "lora": lambda m: 2 * 2 * m * 64,
    "mona": lambda m: 2 * (2 * m * 64 + 5 * m + 64**2 + 88 * 64),
    "fixed": lambda m: 0,
    "vpt": lambda m: 10 * m,
    "sct": lambda m: min(m, 96) ** 2 + min(m, 96),
    "convpass": lambda m: 2 * (2 * m * 8 + m + 8 + 9 * 8**2 + 8),
}


def swin_parts(c, depths, heads):
    """Parameters of a Swin by kind: matrices, biases (tables too), norms' weights, norms' biases."""
    widths = [c * 2**i for i in range(4)]
    blocks = [(m, h) for m, depth, h in zip(widths, depths, heads, strict=True) for _ in range(depth)]
    matrices = 3 * 16 * c + sum(12 * m * m for m, _ in blocks) + sum(4 * m * 2 * m for m in widths[:3])
    biases = c + sum(9 * m + 13 * 13 * h for m, h in blocks)
    norms = c + sum(2 * m for m, _ in blocks) + sum(4 * m for m in widths[:3]) + widths[3]
    return blocks, {"matrices": matrices, "biases": biases, "norm_weights": norms, "norm_biases": norms}


def vit_parts(m, depth):
    blocks = [(m, 0)] * depth
    tokens = m + 197 * m  # class token and positions
    matrices = 3 * 256 * m + depth * 12 * m * m + tokens
    norms = depth * 2 * m + m
    return blocks, {"matrices": matrices, "biases": m + depth * 9 * m, "norm_weights": norms, "norm_biases": norms}


def parts_of(backbone):
    return vit_parts(*VIT) if backbone == "vit-base" else swin_parts(*SWINS[backbone])


def layer_outputs(backbone):
    """Channels that all layers and norms of a backbone give out."""
    inside = sum(11 * m for m, _ in parts_of(backbone)[0])
    if backbone == "vit-base":
        return inside + 2 * VIT[0]
    c = SWINS[backbone][0]
    return inside + 2 * c + sum(4 * m + 2 * m for m in (c, 2 * c, 4 * c)) + 8 * c


def expected(backbone, method):
    blocks, parts = parts_of(backbone)
    if method in PER_BLOCK:
        return sum(PER_BLOCK[method](m) for m, _ in blocks)
    m, heads = blocks[-1]
    return {
        "full": sum(parts.values()),
        "bitfit": parts["biases"] + parts["norm_biases"],
        "norm": parts["norm_weights"] + parts["norm_biases"],
        "partial-1": 12 * m * m + 13 * m + 13 * 13 * heads,
        "ssf": 2 * layer_outputs(backbone),
    }[method]


@pytest.mark.parametrize("backbone", list(BACKBONES))
@pytest.mark.parametrize("method", list(METHODS))
def test_counts_equal_the_formulas(backbone, method):
    counts = count_method(backbone, method).counts
    assert counts.backbone.trainable == expected(backbone, method)
    added = 0 if method in ("full", "fixed", "bitfit", "norm", "partial-1") else expected(backbone, method)
    assert counts.backbone.total == expected(backbone, "full") + added
    width = parts_of(backbone)[0][-1][0]
    assert counts.head.total == counts.head.trainable == 102 * width + 102


def test_swin_large_as_the_papers_dense_tasks_have_it():
    config = SwinConfig(
        embed_dim=192,
        depths=[2, 2, 18, 2],
        num_heads=[6, 12, 24, 48],
        window_size=7,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        backbone = SwinBackbone(config)
        # The official code has four output norms and no norm after the last stage.
        assert sum(p.numel() for n, p in backbone.named_parameters() if "swin.layernorm" not in n) == 194_998_164
        model = apply_method(backbone, "mona", head=())
    assert summary(model).backbone.trainable == 5_267_712


def test_the_table_has_every_method_and_the_head_apart():
    rows = [count_method(backbone, method) for backbone in ("swin-tiny", "vit-base") for method in ("fixed", "mona")]
    lines = format_counts(rows).splitlines()
    assert lines[0] == "| method | swin-tiny | vit-base |"
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["fixed", "mona", "(head, 102 classes)"]
    assert f"{expected('vit-base', 'mona'):,}" in lines[3]
    assert "78,438" in lines[4]
