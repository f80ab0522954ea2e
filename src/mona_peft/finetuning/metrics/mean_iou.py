"""Mean intersection over union of semantic segmentation, from pixel counts that add up."""

from __future__ import annotations

import datasets
import evaluate
import numpy as np
import torch


def pixel_counts(predicted: torch.Tensor, labels: torch.Tensor, num_classes: int, ignored: int) -> torch.Tensor:
    """Pixels of each class in one image, `(3, num_classes)`: right, predicted, labelled. Ignored pixels count nowhere.

    Args:
        predicted (`torch.Tensor`): `(H, W)`, class numbers.
        labels (`torch.Tensor`): `(H, W)`, class numbers or `ignored`.
        num_classes (`int`): Number of classes.
        ignored (`int`): Label of pixels that do not count.
    """
    counted = labels != ignored
    predicted, labels = predicted[counted], labels[counted]
    parts = (labels[predicted == labels], predicted, labels)
    # A sum over a one-hot comparison stays deterministic on GPUs, where bincount is not; it takes a loop over classes.
    if labels.is_cuda:
        classes = range(num_classes)
        return torch.stack([torch.stack([(part == c).sum() for c in classes]) for part in parts])
    return torch.stack([torch.bincount(part, minlength=num_classes) for part in parts])


def mean_iou(right: np.ndarray, predicted: np.ndarray, labelled: np.ndarray) -> dict[str, object]:
    """Mean IoU, mean accuracy and pixel accuracy over a whole data set.

    The counts of all images are summed before anything is divided, as the ADE20K benchmark does. A class that is
    neither labelled nor predicted anywhere is left out of the mean IoU, one that is not labelled out of the mean
    accuracy.

    Args:
        right (`np.ndarray`): Pixels of each class that are right, over all images, `(classes,)`.
        predicted (`np.ndarray`): Pixels predicted as each class.
        labelled (`np.ndarray`): Pixels labelled as each class.

    Raises:
        ValueError: If no pixel is labelled.
    """
    if not labelled.sum():
        raise ValueError("No pixel is labelled: mean IoU is not defined.")
    union = predicted + labelled - right
    iou = np.divide(right, union, out=np.full(len(right), np.nan), where=union > 0)
    accuracy = np.divide(right, labelled, out=np.full(len(right), np.nan), where=labelled > 0)
    return {
        "mean_iou": float(np.nanmean(iou)),
        "mean_accuracy": float(np.nanmean(accuracy)),
        "pixel_accuracy": float(right.sum() / labelled.sum()),
        "iou_by_class": [None if np.isnan(value) else float(value) for value in iou],
    }


class MeanIoU(evaluate.Metric):
    """[`mean_iou`] as a metric of `evaluate`: a row an image, summed over all of them."""

    def _info(self) -> evaluate.MetricInfo:
        counts = datasets.Sequence(datasets.Value("int64"))
        return evaluate.MetricInfo(
            description="Mean intersection over union, mean class accuracy and pixel accuracy.",
            citation="",
            inputs_description="right, predicted, labelled: pixels of each class in each image, of pixel_counts().",
            features=datasets.Features({"right": counts, "predicted": counts, "labelled": counts}),
        )

    def _compute(self, right, predicted, labelled) -> dict[str, object]:
        return mean_iou(*(np.asarray(part, np.int64).sum(0) for part in (right, predicted, labelled)))
