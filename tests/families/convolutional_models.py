"""Tiny convolutional models of transformers, timm and torchvision, whose blocks have a result and no branches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import timm.models as tm
import torchvision.models as tv
import transformers as tr
from torch import nn
from torchvision.models.convnext import CNBlockConfig

from tests.families.family import Family, Size
from tests.families.transformers_models import stages

RESNET: dict[str, Any] = dict(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 2], num_labels=3)
CONVNEXT: dict[str, Any] = dict(hidden_sizes=[8, 16], depths=[1, 2], num_stages=2, num_labels=3)
LARGER: tuple[Size, ...] = ((64, 64), (64, 96))


def convolutional(library: str, name: str, build: Callable[[], nn.Module], **row: Any) -> Family:
    """A family with three blocks, at a quarter and an eighth of the image."""
    defaults: dict[str, Any] = dict(
        blocks=3,
        mlp=None,
        silence="",
        branches=False,
        grid=stages((1, 4), (2, 8)),
        sizes=((32, 32), (32, 48)),
        arrangement="channels_first",
        reentrant=False,
        rounding=1e-12,  # the adapters' result has other strides than the base model's, which convolutions sum by
    )
    return Family(name=name, library=library, build=build, **defaults | row)


FAMILIES: tuple[Family, ...] = (
    *(
        convolutional("transformers", name, build, recorded=(0, 2), checkpointing=False)
        for name, build in (
            ("convnext", lambda: tr.ConvNextForImageClassification(tr.ConvNextConfig(**CONVNEXT))),
            ("convnextv2", lambda: tr.ConvNextV2ForImageClassification(tr.ConvNextV2Config(**CONVNEXT))),
            *(
                (
                    f"resnet, {kind} blocks",
                    lambda kind=kind: tr.ResNetForImageClassification(tr.ResNetConfig(**RESNET, layer_type=kind)),
                )
                for kind in ("basic", "bottleneck")
            ),
        )
    ),
    convolutional(
        "timm",
        "convnext",
        partial(tm.ConvNeXt, depths=(1, 2, 1, 1), dims=(4, 8, 8, 8), num_classes=3),
        blocks=5,
        grid=stages((1, 4), (2, 8), (1, 16), (1, 32)),
        sizes=LARGER,
    ),
    *(
        convolutional(
            "timm",
            f"resnet, {name} blocks",
            partial(tm.ResNet, block, layers=(1, 2, 1, 1), num_classes=3, channels=(4, 8, 8, 8)),
            blocks=5,
            grid=stages((1, 4), (2, 8), (1, 16), (1, 32)),
            sizes=LARGER,
        )
        for name, block in (("basic", tm.resnet.BasicBlock), ("bottleneck", tm.resnet.Bottleneck))
    ),
    convolutional(
        "torchvision",
        "convnext",
        lambda: tv.ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 2)], num_classes=3, layer_scale=0.1),
        checkpointing=False,
    ),
    *(
        convolutional(
            "torchvision",
            f"resnet, {name} blocks",
            partial(tv.ResNet, block, [1, 1, 1, 1], num_classes=3, width_per_group=64),
            blocks=4,
            grid=stages((1, 4), (1, 8), (1, 16), (1, 32)),
            sizes=LARGER,
            checkpointing=False,
        )
        for name, block in (("basic", tv.resnet.BasicBlock), ("bottleneck", tv.resnet.Bottleneck))
    ),
)
