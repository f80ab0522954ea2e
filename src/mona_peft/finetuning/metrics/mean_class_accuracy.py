"""Accuracy averaged over classes."""

from __future__ import annotations

import datasets
import evaluate
import numpy as np


def mean_class_accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes present of the share of their samples that are recognised (balanced accuracy).

    Oxford-IIIT Pet and Flowers102 are usually reported this way, as their test sets are not balanced.

    Args:
        predicted (`np.ndarray`): Predicted class of each sample.
        labels (`np.ndarray`): Class of each sample.
    """
    return float(np.mean([(predicted[labels == label] == label).mean() for label in np.unique(labels)]))


class MeanClassAccuracy(evaluate.Metric):
    """[`mean_class_accuracy`] as a metric of `evaluate`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Accuracy of each class, averaged over the classes present.",
            citation="",
            inputs_description="predictions: predicted class; references: class of each sample.",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        return {"mean_class_accuracy": mean_class_accuracy(np.asarray(predictions), np.asarray(references))}
