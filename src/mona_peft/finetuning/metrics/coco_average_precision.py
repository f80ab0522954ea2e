"""Average precision of boxes and masks by the COCO protocol, computed by COCO's own tools."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from typing import Any

import datasets
import evaluate
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

# Names of the twelve figures that COCOeval summarises, in its order.
FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large") + (
    "ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large",
)  # fmt: skip


class CocoAveragePrecision(evaluate.Metric):
    """Box AP and, where masks are predicted, mask AP, as COCOeval summarises them: `box_ap`, `mask_ap50`, ...

    The annotations are COCO json, handed over once to `compute`; crowds, images without objects, boxes over the edge
    and empty masks mean what they mean to COCO's tools. A figure that is not defined (COCOeval gives -1) is `nan`.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Average precision of boxes and masks by the COCO protocol.",
            citation="",
            inputs_description="A row an image: image_id, boxes (x1, y1, x2, y2), scores, category_ids, masks (RLE).",
            features=datasets.Features(
                {
                    "image_id": datasets.Value("int64"),
                    "boxes": datasets.Sequence(datasets.Sequence(datasets.Value("float64"))),
                    "scores": datasets.Sequence(datasets.Value("float64")),
                    "category_ids": datasets.Sequence(datasets.Value("int64")),
                    "masks": datasets.Sequence(datasets.Value("string")),
                }
            ),
        )

    def _compute(
        self, image_id, boxes, scores, category_ids, masks, annotations: dict[str, Any], with_masks: bool = False
    ) -> dict[str, Any]:
        """Give the figures.

        Args:
            image_id (`list[int]`): by row.
            boxes (`list`): by row, x1, y1, x2, y2 of each detection.
            scores (`list`): by row.
            category_ids (`list`): by row.
            masks (`list`): by row, RLE counts.
            annotations (`dict`): COCO json of the same images.
            with_masks (`bool`): whether to give mask AP too; then each box has a mask.
        """
        truth = quiet_coco(annotations)
        sizes = {image["id"]: (image["height"], image["width"]) for image in annotations["images"]}
        rows = zip(image_id, boxes, scores, category_ids, masks, strict=True)
        results = [result for row in rows for result in _to_results(sizes, with_masks, *row)]
        figures = summarise(truth, results, "bbox", list(image_id), "box_")
        if with_masks:
            # COCOeval sorts objects by area into small, medium and large: of the box for boxes, of the mask for masks.
            for result in results:
                result.pop("bbox")
            figures |= summarise(truth, results, "segm", list(image_id), "mask_")
        return figures


def _to_results(sizes, with_masks: bool, image_id, boxes, scores, category_ids, masks) -> list[dict[str, Any]]:
    """COCO results of one image."""
    results = []
    for number, (box, score, category) in enumerate(zip(boxes, scores, category_ids, strict=True)):
        x1, y1, x2, y2 = box
        result = {"image_id": image_id, "category_id": category, "score": score, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        if with_masks:
            result["segmentation"] = {"size": list(sizes[image_id]), "counts": masks[number]}
        results.append(result)
    return results


def quiet_coco(annotations: dict[str, Any]) -> COCO:
    """COCO's index of annotations, without what its constructor prints."""
    index = COCO()
    # loadRes and COCOeval write into what they are given.
    index.dataset = {
        **annotations,
        "info": {},
        "annotations": [{"iscrowd": 0, **annotation} for annotation in annotations["annotations"]],
    }
    with redirect_stdout(io.StringIO()):
        index.createIndex()
    return index


def summarise(
    truth: COCO, results: list[dict[str, Any]], kind: str, image_ids: list[int], prefix: str
) -> dict[str, Any]:
    """The twelve figures of COCOeval of results of one kind (`bbox` or `segm`)."""
    with redirect_stdout(io.StringIO()):
        found = truth.loadRes(results) if results else _no_results(truth)
        evaluation = COCOeval(truth, found, kind)
        evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = [float(value) if value >= 0 else float("nan") for value in evaluation.stats]
    figures: dict[str, Any] = {f"{prefix}{name}": value for name, value in zip(FIGURES, values, strict=True)}
    precision = evaluation.eval["precision"][..., 0, -1]  # (IoUs, recalls, classes)
    by_class = [
        np.mean(values[values >= 0]) if (values := precision[..., k]).max() >= 0 else None
        for k in range(precision.shape[-1])
    ]
    figures[f"{prefix}ap_by_class"] = [None if value is None else float(value) for value in by_class]
    return figures


def _no_results(truth: COCO) -> COCO:
    """An index without results: loadRes refuses an empty list."""
    empty = COCO()
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty
