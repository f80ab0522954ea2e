"""Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899) over whole batches."""

from __future__ import annotations

import torch
from torchvision.transforms import v2

from .dataset import stack_samples


class MixedBatches:
    """Stacks samples and mixes them; labels become shares of the classes, `(B, classes)`.

    Args:
        num_classes (`int`): Columns of the labels.
        mixup (`float`): Alpha of mixup; 0 for none.
        cutmix (`float`): Alpha of CutMix; 0 for none. With both, each batch gets one of them, evenly.
    """

    def __init__(self, num_classes: int, mixup: float, cutmix: float) -> None:
        choices: list[v2.Transform] = []
        if mixup:
            choices.append(v2.MixUp(alpha=mixup, num_classes=num_classes))
        if cutmix:
            choices.append(v2.CutMix(alpha=cutmix, num_classes=num_classes))
        self.mix = v2.RandomChoice(choices)

    def __call__(self, samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        batch = stack_samples(samples)
        batch["pixel_values"], batch["labels"] = self.mix(batch["pixel_values"], batch["labels"])
        return batch
