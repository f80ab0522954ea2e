"""Average precision of boxes and masks by the COCO protocol, computed by COCO's own tools."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

import datasets
import evaluate
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mona_peft.finetuning.files import Json

# Names of the twelve figures that COCOeval summarises, in its order.
FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large") + (
    "ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large",
)  # fmt: skip


def coco_average_precision(
    rows: Sequence[Mapping[str, Any]], annotations: Json, with_masks: bool = False
) -> dict[str, object]:
    """Box AP and, where masks are predicted, mask AP, as COCOeval summarises them: `box_ap`, `mask_ap50`, ...

    Crowds, images without objects, boxes over the edge and empty masks mean what they mean to COCO's tools. A figure
    that is not defined (COCOeval gives -1) is `nan`.

    Args:
        rows (`Sequence[dict]`): An image each: `image_id`, and of its detections `boxes` (x1, y1, x2, y2), `scores`,
            `category_ids` and `masks` (RLE counts).
        annotations (`dict`): COCO json of the same images.
        with_masks (`bool`): Whether to give mask AP too; then each box has a mask.
    """
    truth = quiet_coco(annotations)
    sizes = {image["id"]: (image["height"], image["width"]) for image in annotations["images"]}
    results = [result for row in rows for result in _to_results(row, sizes[row["image_id"]], with_masks)]
    image_ids = [row["image_id"] for row in rows]
    figures = summarise(truth, results, "bbox", image_ids, "box_")
    if with_masks:
        # COCOeval sorts objects by area into small, medium and large: of the box for boxes, of the mask for masks.
        for result in results:
            result.pop("bbox")
        figures |= summarise(truth, results, "segm", image_ids, "mask_")
    return figures


def _to_results(row: Mapping[str, Any], size: tuple[int, int], with_masks: bool) -> list[dict[str, Any]]:
    """COCO results of one image."""
    results = []
    detections = zip(row["boxes"], row["scores"], row["category_ids"], strict=True)
    for number, (box, score, category) in enumerate(detections):
        x1, y1, x2, y2 = box
        bbox = [x1, y1, x2 - x1, y2 - y1]
        result = {"image_id": row["image_id"], "category_id": category, "score": score, "bbox": bbox}
        if with_masks:
            result["segmentation"] = {"size": list(size), "counts": row["masks"][number]}
        results.append(result)
    return results


def quiet_coco(annotations: Json) -> COCO:
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


def summarise(truth: COCO, results: list[Json], kind: str, image_ids: list[int], prefix: str) -> dict[str, object]:
    """The twelve figures of COCOeval of results of one kind (`bbox` or `segm`)."""
    with redirect_stdout(io.StringIO()):
        found = truth.loadRes(results) if results else _no_results(truth)
        evaluation = COCOeval(truth, found, kind)
        evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = [float(value) if value >= 0 else float("nan") for value in evaluation.stats]
    figures: dict[str, object] = {f"{prefix}{name}": value for name, value in zip(FIGURES, values, strict=True)}
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


class CocoAveragePrecision(evaluate.Metric):
    """[`coco_average_precision`] as a metric of `evaluate`; the annotations are handed over once, to `compute`."""

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

    def _compute(self, annotations: Json, with_masks: bool = False, **columns: list) -> dict[str, object]:
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return coco_average_precision(rows, annotations, with_masks)
