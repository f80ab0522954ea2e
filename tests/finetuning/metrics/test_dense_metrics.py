"""Metrics of dense prediction against other computations: brute force, scikit-learn, pycocotools from files."""

import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import confusion_matrix

from mona_peft.finetuning.data.dense.masks import encode_mask
from mona_peft.finetuning.metrics.coco_average_precision import FIGURES, CocoAveragePrecision, coco_average_precision
from mona_peft.finetuning.metrics.mean_iou import MeanIoU, pixel_counts
from mona_peft.finetuning.metrics.mean_iou import mean_iou as plain_mean_iou
from mona_peft.finetuning.metrics.voc_average_precision import (
    VocAveragePrecision,
    area_under_curve,
    voc_average_precision,
)


def label_maps(rng, count, classes):
    for _ in range(count):
        shape = tuple(rng.integers(5, 20, 2))
        labels = rng.integers(0, classes, shape)
        predicted = np.where(rng.random(shape) < 0.6, labels, rng.integers(0, classes, shape))
        labels[rng.random(shape) < 0.2] = 255
        yield torch.from_numpy(predicted), torch.from_numpy(labels)


def mean_iou(counts):
    columns = torch.stack(counts).unbind(1)
    names = ("right", "predicted", "labelled")
    rows = {name: column.tolist() for name, column in zip(names, columns, strict=True)}
    return MeanIoU(keep_in_memory=True).compute(**rows)


def test_mean_iou_is_that_of_the_confusion_matrix():
    rng = np.random.default_rng(0)
    maps = list(label_maps(rng, 12, classes=4))
    found = mean_iou([pixel_counts(predicted, labels, 6, 255) for predicted, labels in maps])
    flat = [torch.cat([pair[side].flatten() for pair in maps]).numpy() for side in (0, 1)]
    matrix = confusion_matrix(flat[1][flat[1] != 255], flat[0][flat[1] != 255], labels=range(6))
    right, labelled, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    present = slice(0, 4)  # classes 4 and 5 come nowhere
    iou = right[present] / (labelled + predicted - right)[present]
    assert found["mean_iou"] == pytest.approx(iou.mean(), abs=1e-12)
    assert found["mean_accuracy"] == pytest.approx((right[present] / labelled[present]).mean(), abs=1e-12)
    assert found["pixel_accuracy"] == pytest.approx(right.sum() / matrix.sum(), abs=1e-12)
    assert found["iou_by_class"][4:] == [None, None]


def test_mean_iou_is_not_the_mean_over_images():
    one = pixel_counts(torch.zeros(1, 10, dtype=torch.long), torch.zeros(1, 10, dtype=torch.long), 2, 255)
    other = pixel_counts(torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2, dtype=torch.long), 2, 255)
    found = mean_iou([one, other])
    assert found["iou_by_class"] == pytest.approx([10 / 12, 0.0])
    assert found["pixel_accuracy"] == pytest.approx(10 / 12)
    with pytest.raises(ValueError, match="No pixel"):
        mean_iou([torch.zeros(3, 2, dtype=torch.long)])


def brute_force_voc(predictions, references, label, iou, eleven):
    """VOC AP of one class, straight from its definition."""
    pool = [
        (score, image, box)
        for image, p in enumerate(predictions)
        for box, score, of in zip(p["boxes"], p["scores"], p["labels"], strict=True)
        if of == label
    ]
    pool.sort(key=lambda entry: -entry[0])
    objects = [
        [(b, d) for b, n, d in zip(r["boxes"], r["labels"], r["difficult"], strict=True) if n == label]
        for r in references
    ]
    total = sum(not difficult for image in objects for _, difficult in image)
    taken, right, wrong, curve = set(), 0, 0, []
    for _, image, box in pool:
        overlaps = [overlap(box, other) for other, _ in objects[image]]
        best = max(range(len(overlaps)), key=overlaps.__getitem__) if overlaps else None
        if best is not None and overlaps[best] >= iou:
            if objects[image][best][1]:
                continue
            if (image, best) in taken:
                wrong += 1
            else:
                taken.add((image, best))
                right += 1
        else:
            wrong += 1
        curve.append((right / total, right / (right + wrong)))
    if eleven:
        return sum(max([p for r, p in curve if r >= t / 10 - 1e-12], default=0.0) for t in range(11)) / 11
    area, last = 0.0, 0.0
    for number, (recall, _) in enumerate(curve):
        area += (recall - last) * max(p for _, p in curve[number:])
        last = recall
    return area


def overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def random_scenes(seed, images=8, classes=3):
    rng = np.random.default_rng(seed)
    predictions, references = [], []
    for number in range(images):
        count = 0 if number == 2 else int(rng.integers(1, 6))
        corner, side = rng.uniform(0, 40, (count, 2)), rng.uniform(5, 40, (count, 2))
        boxes = np.concatenate([corner, corner + side], 1)
        labels = rng.integers(0, classes, count)
        found = np.concatenate([boxes + rng.normal(0, 3, boxes.shape), boxes[:2] + 0.5])
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        stray = rng.uniform(0, 40, (2, 2))
        found = np.concatenate([found, np.concatenate([stray, stray + 9], 1)])
        found_labels = np.concatenate([labels, labels[:2], rng.integers(0, classes, 2)])
        references.append(
            {
                "boxes": boxes.tolist(),
                "labels": labels.tolist(),
                "difficult": (rng.random(count) < 0.3).astype(int).tolist(),
            }
        )
        predictions.append(
            {"boxes": found.tolist(), "scores": rng.random(len(found)).tolist(), "labels": found_labels.tolist()}
        )
    return predictions, references


@pytest.mark.parametrize("seed", range(4))
def test_voc_ap_is_that_of_the_definition(seed):
    predictions, references = random_scenes(seed)
    metric = VocAveragePrecision(keep_in_memory=True)
    found = metric.compute(predictions=predictions, references=references, num_classes=3)
    for name, eleven in (("ap50", False), ("ap50_11point", True)):
        expected = [brute_force_voc(predictions, references, label, 0.5, eleven) for label in range(3)]
        assert found[f"{name}_by_class"] == pytest.approx(expected, abs=1e-12)
        assert found[name] == pytest.approx(np.mean(expected), abs=1e-12)


def test_voc_ap_by_hand():
    box = [0.0, 0.0, 10.0, 10.0]
    reference = {"boxes": [box, [20, 20, 30, 30]], "labels": [0, 0], "difficult": [0, 0]}
    # Right, then the same object again (wrong), then nothing: recalls 1/2, 1/2; precisions 1, 1/2.
    prediction = {"boxes": [box, box], "scores": [0.9, 0.8], "labels": [0, 0]}
    metric = VocAveragePrecision(keep_in_memory=True)
    found = metric.compute(predictions=[prediction], references=[reference], num_classes=2)
    assert found["ap50"] == pytest.approx(0.5)
    assert found["ap50_11point"] == pytest.approx(6 / 11)
    assert found["ap50_by_class"][1] is None
    assert area_under_curve(np.array([1.0]), np.array([1.0]), True) == pytest.approx(1.0)


def coco_case(seed):
    """Annotations with a crowd, an empty image, a box over the edge; and detections of them, with masks."""
    rng = np.random.default_rng(seed)
    side, images, annotations, rows = 48, [], [], []
    for image_id in range(1, 8):
        images.append({"id": image_id, "file_name": f"{image_id}.png", "height": side, "width": side})
        boxes, masks, categories = [], [], []
        for _ in range(0 if image_id == 3 else int(rng.integers(1, 5))):
            x, y = rng.integers(-3, side - 12, 2)
            w, h = rng.integers(6, 30, 2)
            mask = np.zeros((side, side), bool)
            mask[max(y, 0) : y + h, max(x, 0) : x + w] = rng.random() < 0.95
            category = int(rng.integers(1, 4)) * 7
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": [float(v) for v in (x, y, w, h)],
                    "area": float(mask.sum()),
                    "iscrowd": int(rng.random() < 0.2),
                    "segmentation": encode_mask(mask),
                }
            )
            boxes.append([x + rng.normal(0, 2), y + rng.normal(0, 2), x + w + 1.0, y + h + rng.normal(0, 2)])
            masks.append(np.roll(mask, int(rng.integers(0, 3)), axis=1))
            categories.append(category)
        boxes.append([1.0, 1.0, 9.0, 9.0])
        masks.append(np.zeros((side, side), bool))  # an empty mask
        categories.append(7)
        rows.append((image_id, boxes, rng.random(len(boxes)).tolist(), categories, masks))
    names = [{"id": 7 * number, "name": str(number)} for number in range(1, 4)]
    return {"images": images, "annotations": annotations, "categories": names}, rows


@pytest.mark.parametrize("seed", range(3))
def test_coco_ap_is_that_of_pycocotools_from_files(seed, tmp_path, capsys):
    truth, rows = coco_case(seed)
    found = CocoAveragePrecision(keep_in_memory=True).compute(
        image_id=[row[0] for row in rows],
        boxes=[row[1] for row in rows],
        scores=[row[2] for row in rows],
        category_ids=[row[3] for row in rows],
        masks=[[encode_mask(mask)["counts"] for mask in row[4]] for row in rows],
        annotations=truth,
        with_masks=True,
    )
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    for kind, prefix in (("bbox", "box_"), ("segm", "mask_")):
        results = []
        for image_id, boxes, scores, categories, masks in rows:
            for (x1, y1, x2, y2), score, category, mask in zip(boxes, scores, categories, masks, strict=True):
                shape = {"bbox": [x1, y1, x2 - x1, y2 - y1]} if kind == "bbox" else {"segmentation": encode_mask(mask)}
                results.append({"image_id": image_id, "category_id": category, "score": score, **shape})
        (tmp_path / "found.json").write_text(json.dumps(results))
        index = COCO(str(tmp_path / "truth.json"))
        evaluation = COCOeval(index, index.loadRes(str(tmp_path / "found.json")), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        expected = [value if value >= 0 else np.nan for value in evaluation.stats]
        assert [found[f"{prefix}{name}"] for name in FIGURES] == pytest.approx(expected, abs=1e-12, nan_ok=True)
        assert 0 < found[f"{prefix}ap50"] < 1


def test_coco_ap_by_hand_and_of_nothing():
    truth = {
        "images": [{"id": 1, "height": 50, "width": 50}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 10, 10], "area": 100},
            {"id": 2, "image_id": 1, "category_id": 3, "bbox": [20, 20, 30, 30], "area": 900, "iscrowd": 1},
        ],
        "categories": [{"id": 3, "name": "three"}],
    }

    def figures(boxes, scores):
        metric = CocoAveragePrecision(keep_in_memory=True)
        row = {"boxes": [boxes], "scores": [scores], "category_ids": [[3] * len(boxes)], "masks": [[]]}
        return metric.compute(image_id=[1], **row, annotations=truth)

    assert figures([], [])["box_ap"] == 0
    # Two detections inside the crowd are neither right nor wrong, though they score best.
    found = figures([[22, 22, 30, 30], [31, 31, 40, 40], [0, 0, 10, 10]], [0.9, 0.8, 0.7])
    assert found["box_ap"] == pytest.approx(1.0)
    # IoU 8 / 10 passes the seven thresholds from 0.5 to 0.8.
    assert figures([[0, 0, 8, 10]], [0.5])["box_ap"] == pytest.approx(0.7)


def test_the_metrics_of_evaluate_are_the_plain_functions():
    """Meters call the functions, so that predictions do not pass through tables; both give the same figures."""
    predictions, references = random_scenes(7)
    metric = VocAveragePrecision(keep_in_memory=True)
    by_metric = metric.compute(predictions=predictions, references=references, num_classes=3)
    assert by_metric == voc_average_precision(predictions, references, 3)
    truth, rows = coco_case(4)
    names = ("image_id", "boxes", "scores", "category_ids", "masks")
    entries = [dict(zip(names, row, strict=True)) for row in rows]
    for entry in entries:
        entry["masks"] = [encode_mask(mask)["counts"] for mask in entry["masks"]]
    columns = {name: [entry[name] for entry in entries] for name in names}
    found = CocoAveragePrecision(keep_in_memory=True).compute(**columns, annotations=truth, with_masks=True)
    np.testing.assert_equal(coco_average_precision(entries, truth, with_masks=True), found)
    counts = [pixel_counts(*pair, 4, 255) for pair in label_maps(np.random.default_rng(1), 5, 4)]
    assert plain_mean_iou(*torch.stack(counts).sum(0).numpy()) == mean_iou(counts)
