"""Average precision of detection by the PASCAL VOC protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import datasets
import evaluate
import numpy as np


def box_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU `(n, m)` of boxes `(n, 4)` and `(m, 4)` as x1, y1, x2, y2."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = [(b[:, 2:] - b[:, :2]).prod(-1) for b in (boxes, others)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def area_under_curve(recall: np.ndarray, precision: np.ndarray, eleven_points: bool) -> float:
    """Area under the interpolated precision (the best at that recall or above): exact, or at 11 recalls (VOC2007).

    Args:
        recall (`np.ndarray`): `(n,)`, not falling.
        precision (`np.ndarray`): `(n,)`.
        eleven_points (`bool`): Mean of the interpolated precision at recalls 0, 0.1, ..., 1.
    """
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if not eleven_points:
        return float((np.diff(recall, prepend=0.0) * envelope).sum())
    first = np.searchsorted(recall, np.arange(11) / 10 - 1e-12)
    return float(np.append(envelope, 0.0)[first].sum() / 11)


def voc_average_precision(
    predictions: Sequence[Mapping[str, object]],
    references: Sequence[Mapping[str, object]],
    num_classes: int,
    iou: float = 0.5,
) -> dict[str, object]:
    """AP at one IoU by class, and its mean over the classes with an object that counts.

    As in the development kit: a detection belongs to the object of its class that it overlaps most; the first
    detection of an object is right and further ones are wrong; a detection of a `difficult` object counts for
    nothing, and difficult objects need not be found. Boxes are x1, y1, x2, y2 with exclusive far edges.

    Args:
        predictions (`Sequence[dict]`): By image: `boxes`, `scores`, `labels`.
        references (`Sequence[dict]`): By image: `boxes`, `labels`, `difficult`.
        num_classes (`int`): Labels are below this.
        iou (`float`): Least overlap of a right detection.

    Returns:
        `dict[str, object]`: `ap50` and `ap50_11point` (named by the IoU), and both by class.

    Raises:
        ValueError: If no image has an object that counts.
    """
    results = [_class_curve(predictions, references, label, iou) for label in range(num_classes)]
    figures: dict[str, object] = {}
    for name, eleven in ((f"ap{iou * 100:.0f}", False), (f"ap{iou * 100:.0f}_11point", True)):
        by_class = [None if curve is None else area_under_curve(*curve, eleven) for curve in results]
        present = [value for value in by_class if value is not None]
        if not present:
            raise ValueError("No image has an object that counts: average precision is not defined.")
        figures |= {name: float(np.mean(present)), f"{name}_by_class": by_class}
    return figures


def _class_curve(predictions, references, label: int, iou: float) -> tuple[np.ndarray, np.ndarray] | None:
    """Recall and precision after each detection of one class, best score first; `None` without an object."""
    scores, verdicts, objects = [], [], 0
    for predicted, annotated in zip(predictions, references, strict=True):
        of_class = np.asarray(annotated["labels"]) == label
        difficult = np.asarray(annotated["difficult"], bool)[of_class]
        boxes = np.asarray(annotated["boxes"], float).reshape(-1, 4)[of_class]
        mine = np.asarray(predicted["labels"]) == label
        objects += int((~difficult).sum())
        image_scores = np.asarray(predicted["scores"], float)[mine]
        # An object belongs to one image, so the order over images does not matter to who is first.
        order = np.argsort(-image_scores, kind="stable")
        detections = np.asarray(predicted["boxes"], float).reshape(-1, 4)[mine][order]
        scores.append(image_scores[order])
        verdicts.append(_judge(detections, boxes, difficult, iou))
    if not objects:
        return None
    order = np.argsort(-np.concatenate(scores), kind="stable")
    verdict = np.concatenate(verdicts)[order]
    verdict = verdict[verdict >= 0]
    right = np.cumsum(verdict)
    return right / objects, right / np.arange(1, len(right) + 1)


def _judge(detections: np.ndarray, boxes: np.ndarray, difficult: np.ndarray, iou: float) -> np.ndarray:
    """Verdict `(n,)` on each detection of an image, best score first: 1 right, 0 wrong, -1 counts for nothing."""
    verdict = np.zeros(len(detections), int)
    if not len(boxes):
        return verdict
    overlaps = box_iou(detections, boxes)
    found = np.zeros(len(boxes), bool)
    for number, row in enumerate(overlaps):
        best = int(row.argmax())
        if row[best] < iou:
            continue
        verdict[number] = -1 if difficult[best] else int(not found[best])
        found[best] = True
    return verdict


class VocAveragePrecision(evaluate.Metric):
    """[`voc_average_precision`] as a metric of `evaluate`."""

    def _info(self) -> evaluate.MetricInfo:
        boxes = datasets.Sequence(datasets.Sequence(datasets.Value("float64")))
        labels = datasets.Sequence(datasets.Value("int64"))
        return evaluate.MetricInfo(
            description="Average precision of detection by the PASCAL VOC protocol.",
            citation="",
            inputs_description="A row an image: boxes, scores, labels predicted; boxes, labels, difficult annotated.",
            features=datasets.Features(
                {
                    "predictions": {
                        "boxes": boxes,
                        "scores": datasets.Sequence(datasets.Value("float64")),
                        "labels": labels,
                    },
                    "references": {"boxes": boxes, "labels": labels, "difficult": labels},
                }
            ),
        )

    def _compute(self, predictions, references, num_classes: int, iou: float = 0.5) -> dict[str, object]:
        return voc_average_precision(predictions, references, num_classes, iou)
