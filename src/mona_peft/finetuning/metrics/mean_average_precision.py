"""Mean average precision over classes, for images with several labels."""

from __future__ import annotations

import datasets
import evaluate
import numpy as np

#: Reference of an image that does not count for a class.
LEFT_OUT = -1


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the precision-recall steps, each threshold taken once however many samples share it.

    Args:
        scores (`np.ndarray`): Shape `(samples,)`.
        positive (`np.ndarray`): Shape `(samples,)`, boolean; at least one is true.
    """
    order = np.argsort(-scores, kind="stable")
    scores, positive = scores[order], positive[order]
    last_of_threshold = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    found = np.cumsum(positive)[last_of_threshold]
    precision = found / (last_of_threshold + 1)
    recall_gain = np.diff(found, prepend=0) / positive.sum()
    return float((precision * recall_gain).sum())


def multilabel_mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> dict[str, object]:
    """Average precision of each class over the images, averaged over the classes with a positive.

    A reference of 1 is a positive, 0 a negative, -1 leaves that image out for that class (objects marked `difficult`
    in VOC). VOC2007's own protocol interpolates precision at 11 recalls; this is the exact area, as scikit-learn
    computes it.

    Args:
        scores (`np.ndarray`): `(samples, classes)`.
        labels (`np.ndarray`): `(samples, classes)`.

    Returns:
        `dict[str, object]`: `map`, and `ap_by_class` with `None` for a class without a positive.

    Raises:
        ValueError: If no class has a positive.
    """
    by_class: list[float | None] = []
    for class_scores, class_labels in zip(scores.T, labels.T, strict=True):
        counted = class_labels != LEFT_OUT
        positive = class_labels[counted] == 1
        by_class.append(average_precision(class_scores[counted], positive) if positive.any() else None)
    present = [value for value in by_class if value is not None]
    if not present:
        raise ValueError("No class has a positive reference: mean average precision is not defined.")
    return {"map": float(np.mean(present)), "ap_by_class": by_class}


class MultilabelMeanAveragePrecision(evaluate.Metric):
    """[`multilabel_mean_average_precision`] as a metric of `evaluate`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Average precision by class, averaged over the classes with a positive.",
            citation="",
            inputs_description="predictions: scores (samples, classes); references: 1, 0 or -1 (samples, classes).",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float32")),
                    "references": datasets.Sequence(datasets.Value("int8")),
                }
            ),
        )

    def _compute(self, predictions, references) -> dict[str, object]:
        scores, labels = np.asarray(predictions, dtype=np.float32), np.asarray(references)
        return multilabel_mean_average_precision(scores, labels)
