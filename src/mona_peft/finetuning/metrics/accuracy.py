"""Top-k accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, top_k: Sequence[int] = (1, 5)) -> dict[str, float]:
    """Share of samples whose class is among the k best scores, as `accuracy` (k=1) and `top5_accuracy`.

    Equal scores count against the sample, so a model that gives every class the same score gets no credit.

    Args:
        scores (`np.ndarray`): `(samples, classes)`.
        labels (`np.ndarray`): Class of each sample, `(samples,)`.
        top_k (`Sequence[int]`): Each k above 1 counts only where there are more classes.
    """
    own_score = np.take_along_axis(scores, labels[:, None], axis=1)
    rank = (~(scores < own_score)).sum(axis=1)  # 1 for the best; equal scores, and NaN, count before it
    wanted = [k for k in top_k if k == 1 or k < scores.shape[1]]
    return {"accuracy" if k == 1 else f"top{k}_accuracy": float((rank <= k).mean()) for k in wanted}


class TopKAccuracy(evaluate.Metric):
    """[`top_k_accuracy`] as a metric of `evaluate`."""

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
        return top_k_accuracy(np.asarray(predictions, dtype=np.float32), np.asarray(references), top_k)
