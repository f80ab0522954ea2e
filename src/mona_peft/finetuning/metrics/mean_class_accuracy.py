"""Accuracy averaged over classes."""

from __future__ import annotations

import datasets
import evaluate
import numpy as np


class MeanClassAccuracy(evaluate.Metric):
    """Mean over the classes present of the share of their samples that are recognised (balanced accuracy).

    Oxford-IIIT Pet and Flowers102 are usually reported this way, as their test sets are not balanced.
    """

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
        predicted, labels = np.asarray(predictions), np.asarray(references)
        recalls = [(predicted[labels == label] == label).mean() for label in np.unique(labels)]
        return {"mean_class_accuracy": float(np.mean(recalls))}
