"""Cross entropy over the pixels of label maps, with weights by class."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def pixel_loss(logits: Tensor, labels: Tensor, class_weights: Tensor | None, ignored: int) -> Tensor:
    """Mean cross entropy of the labelled pixels, each times the weight of its class.

    It is the mean over pixels, as that of classification is one over images. torch's own divides by the sum of the
    weights, under which the crops of one class would weigh as much as without.

    Args:
        logits (`Tensor`): `(B, classes, H, W)`.
        labels (`Tensor`): `(B, H, W)`.
        class_weights (`Tensor`, *optional*): `(classes,)`; 1 for all if left out.
        ignored (`int`): Label of the pixels that do not count.
    """
    logits = logits.float()
    if class_weights is None:
        return F.cross_entropy(logits, labels, ignore_index=ignored)
    weights = class_weights.to(logits)
    total = F.cross_entropy(logits, labels, weights, ignore_index=ignored, reduction="sum")
    return total / (labels != ignored).sum()
