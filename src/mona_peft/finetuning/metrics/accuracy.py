"""Top-k accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np


class TopKAccuracy(evaluate.Metric):
    """Share of samples whose class is among the k best scores, as `accuracy` (k=1) and `top5_accuracy`.

    Equal scores count against the sample, so a model that gives every class the same score gets no credit.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of samples whose class is among the k best scores.",
            citation="",
            inputs_description="predictions: scores (samples, classes); references: class of each sample.",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float32")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions, references, top_k: Sequence[int] = (1, 5)) -> dict[str, float]:
        """Give the accuracy for every k of `top_k` that is below the number of classes."""
        scores, labels = np.asarray(predictions, dtype=np.float32), np.asarray(references)
        own_score = np.take_along_axis(scores, labels[:, None], axis=1)
        rank = (~(scores < own_score)).sum(axis=1)  # 1 for the best; equal scores, and NaN, count before it
        wanted = [k for k in top_k if k == 1 or k < scores.shape[1]]
        return {"accuracy" if k == 1 else f"top{k}_accuracy": float((rank <= k).mean()) for k in wanted}
