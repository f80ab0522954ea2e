"""How many parameters each method trains in the backbones of the paper, without a weight in memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import SwinConfig, SwinForImageClassification, ViTConfig, ViTForImageClassification

from mona_peft.finetuning.methods import METHODS, apply_method
from mona_peft.summary import Summary, summary


def swin(embed_dim: int, depths: tuple[int, ...], num_heads: tuple[int, ...]) -> Callable[[int], nn.Module]:
    """A maker of Swin classifiers (arXiv 2103.14030, table 7) from the number of classes."""

    def make(num_labels: int) -> nn.Module:
        config = SwinConfig(embed_dim=embed_dim, depths=list(depths), num_heads=list(num_heads), window_size=7)
        config.num_labels = num_labels
        return SwinForImageClassification(config)

    return make


def vit_base(num_labels: int) -> nn.Module:
    """A ViT-B/16 classifier (arXiv 2010.11929, table 1)."""
    config = ViTConfig()
    config.num_labels = num_labels
    return ViTForImageClassification(config)


BACKBONES: dict[str, Callable[[int], nn.Module]] = {
    "swin-tiny": swin(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "swin-base": swin(128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "swin-large": swin(192, (2, 2, 18, 2), (6, 12, 24, 48)),
    "vit-base": vit_base,
}


@dataclass(frozen=True)
class CountRow:
    """Parameters that one method trains in one backbone.

    Args:
        backbone (`str`): A key of `BACKBONES`.
        method (`str`): A key of `METHODS`.
        counts (`Summary`): Backbone and head apart.
    """

    backbone: str
    method: str
    counts: Summary


def count_method(backbone: str, method: str, num_labels: int = 102) -> CountRow:
    """Count what `method` trains in `backbone`, built on the meta device.

    Args:
        backbone (`str`): A key of `BACKBONES`.
        method (`str`): A key of `METHODS`.
        num_labels (`int`): Classes of the head, 102 as in Flowers102.
    """
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of adapters on the meta device, which is what is wanted here
        model = apply_method(BACKBONES[backbone](num_labels), method)
    return CountRow(backbone, method, summary(model))


def count_all(backbones: Iterable[str] = tuple(BACKBONES), methods: Iterable[str] | None = None) -> list[CountRow]:
    """Count every method in every backbone, backbones first."""
    methods = list(METHODS) if methods is None else list(methods)
    return [count_method(backbone, method) for backbone in backbones for method in methods]


def format_counts(rows: list[CountRow]) -> str:
    """A Markdown table: a line a method, a column a backbone, trained parameters of the backbone and their share."""
    backbones = list(dict.fromkeys(row.backbone for row in rows))
    by_key = {(row.backbone, row.method): row.counts for row in rows}
    lines = ["| method | " + " | ".join(backbones) + " |", "|---" * (len(backbones) + 1) + "|"]
    for method in dict.fromkeys(row.method for row in rows):
        cells = [_cell(by_key[backbone, method]) for backbone in backbones]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    heads = [f"{by_key[backbone, rows[0].method].head.total:,}" for backbone in backbones]
    lines.append("| (head, 102 classes) | " + " | ".join(heads) + " |")
    return "\n".join(lines)


def _cell(counts: Summary) -> str:
    """Trained parameters, and their share of all of the backbone with what the method added."""
    return f"{counts.backbone.trainable:,} ({counts.backbone.trainable / counts.backbone.total:.2%})"
