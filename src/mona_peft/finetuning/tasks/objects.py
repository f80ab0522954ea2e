"""Detection and instance segmentation on the training loop: images with objects in, average precision out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from mona_peft.finetuning.data.dense.masks import decode_mask, encode_mask
from mona_peft.finetuning.data.dense.objects import ObjectData, ObjectImage, measured
from mona_peft.finetuning.data.dense.targets import trained_classes, training_targets, without_empty
from mona_peft.finetuning.data.dense.transforms import object_train_transform
from mona_peft.finetuning.data.sources.coco import to_coco
from mona_peft.finetuning.metrics.coco_average_precision import FIGURES, coco_average_precision
from mona_peft.finetuning.metrics.voc_average_precision import voc_average_precision
from mona_peft.finetuning.models.architectures import ARCHITECTURES
from mona_peft.finetuning.models.detector_base import Objects
from mona_peft.finetuning.models.outputs import Batch
from mona_peft.finetuning.pictures.drawing import draw_objects, draw_sheet
from mona_peft.finetuning.training.task import Meter

from .config import ObjectConfig
from .dense import DenseTask
from .object_samples import ObjectSample, ObjectSamples, collate_objects

PICTURES = 8
DRAWN_ABOVE = 0.3


class ObjectLists(TypedDict):
    """Objects found in one image, as plain lists.

    Args:
        boxes (`list[list[float]]`): x1, y1, x2, y2 in pixels of the original image.
        scores (`list[float]`): One a box.
        labels (`list[int]`): From 0.
        masks (`list[str]`, *optional*): RLE counts.
    """

    boxes: list[list[float]]
    scores: list[float]
    labels: list[int]
    masks: NotRequired[list[str]]


class Prediction(ObjectLists):
    """What an evaluation finds in one image.

    Args:
        index (`int`): The image's place in the split.
        turn (`int`): EXIF orientation by which its annotations have to turn.
    """

    index: int
    turn: int


class ObjectMeter(Meter):
    """Objects found in an evaluation, and average precision over them.

    Args:
        data (`ObjectData`): Names the categories.
        images (`Sequence[ObjectImage]`): The split that is measured, with what is annotated.
        protocol (`str`): A key of `PROTOCOLS`.
        with_masks (`bool`): Whether to give mask AP too.
    """

    def __init__(self, data: ObjectData, images: Sequence[ObjectImage], protocol: str, with_masks: bool) -> None:
        self.data = data
        self.images = images
        self.protocol = protocol
        self.with_masks = with_masks
        self.found: list[Prediction] = []

    def update(self, predictions: list[Prediction]) -> None:
        """Take in one entry an image."""
        self.found.extend(predictions)

    @property
    def num_samples(self) -> int:
        """How many images were taken in."""
        return len(self.found)

    def in_order(self) -> list[tuple[ObjectImage, Prediction]]:
        """Each image, its annotations turned with it, with what was found in it, in the order of the split."""
        found = sorted(self.found, key=lambda one: one["index"])
        return [(self.images[one["index"]].turned(one["turn"]), one) for one in found]

    def compute(self) -> dict[str, object]:
        """Average precision by the protocol."""
        return self._compute_coco() if self.protocol == "coco" else self._compute_voc()

    def _compute_voc(self) -> dict[str, object]:
        label_of = {category: label for label, category in enumerate(self.data.category_ids)}
        pairs = self.in_order()
        references = [self._reference(image, label_of) for image, _ in pairs]
        return voc_average_precision([one for _, one in pairs], references, len(self.data.categories))

    @staticmethod
    def _reference(image: ObjectImage, label_of: dict[int, int]) -> dict[str, list]:
        """Annotations as the VOC protocol takes them."""
        corners = [(x, y, x + w, y + h) for x, y, w, h in (a["bbox"] for a in image.annotations)]
        return {
            "boxes": corners,
            "labels": [label_of[a["category_id"]] for a in image.annotations],
            "difficult": [int(bool(a.get("difficult") or a.get("iscrowd"))) for a in image.annotations],
        }

    def _compute_coco(self) -> dict[str, object]:
        pairs = [(measured(image, self.with_masks), one) for image, one in self.in_order()]
        ids, images = self.data.category_ids, [image for image, _ in pairs]
        rows = [
            {**one, "image_id": image.id, "category_ids": [ids[label] for label in one["labels"]]}
            for image, one in pairs
        ]
        truth = to_coco(images, self.data.categories, {image.id: str(image.id) for image in images})
        figures = coco_average_precision(rows, truth, self.with_masks)
        # JSON knows no NaN: a metric that is not defined is left out.
        return {k: v for k, v in figures.items() if not (isinstance(v, float) and math.isnan(v))}


class ObjectTask(DenseTask[Batch, ObjectData, ObjectConfig]):
    """Base of detection and instance segmentation.

    Args:
        data (`ObjectData`): Splits and categories.
        config (`ObjectConfig`): Model, method and recipe.
        processor (`BaseImageProcessor`, *optional*): Image processor, where the backbone's folder has none.
    """

    gathers_objects = True
    with_masks = False

    def metrics(self) -> dict[str, bool]:
        """Average precisions (and recalls) by the protocol, all better when greater."""
        if self.config.protocol != "coco":
            return {"ap50": True, "ap50_11point": True}
        prefixes = ("box_", "mask_") if self.with_masks else ("box_",)
        return {f"{prefix}{name}": True for prefix in prefixes for name in FIGURES}

    def dataset(self, split: str) -> Dataset | None:
        """Samples of a split."""
        if split not in self.data.splits:
            return None
        config, transform, images = self.config, None, self.data.splits[split]
        if split == "train":
            transform = object_train_transform(
                self.settings,
                config.train_short_sides,
                config.horizontal_flip,
                config.crop,
                config.crop_share,
                config.crop_short_sides,
            )
            if config.skip_empty_images:
                images = without_empty(images)
        samples = ObjectSamples(images, self.data.category_ids, self.settings, transform, self.with_masks)
        if split != "train":
            return samples
        return self.repeated(samples, lambda: [trained_classes(image) for image in images])

    def collate(self, split: str) -> Callable[[list[ObjectSample]], Batch]:
        """Pad the images."""
        return collate_objects

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The architecture's own loss."""
        loss = ARCHITECTURES[self.config.architecture].loss
        assert loss is not None, "object architectures have a loss"
        return loss(model, batch)

    def predict(self, model: nn.Module, batch: Batch) -> list[Prediction]:
        """Objects of each image as plain lists, which processes can exchange."""
        find = ARCHITECTURES[self.config.architecture].find
        assert find is not None, "object architectures find objects"
        found = zip(find(model, batch), batch["index"], batch["turn"], strict=True)
        return [{**to_lists(one), "index": index, "turn": turn} for one, index, turn in found]

    def meter(self, split: str) -> ObjectMeter:
        """An empty [`ObjectMeter`]."""
        return ObjectMeter(self.data, self.data.splits[split], self.config.protocol, self.with_masks)

    def report(self, meter: Meter, split: str, folder: Path) -> None:
        """Draw the objects found in the first images next to the annotated ones."""
        if not isinstance(meter, ObjectMeter):
            return
        rows = []
        for row, one in meter.in_order()[:PICTURES]:
            image, targets = row.read(), training_targets(row, self.data.category_ids, self.with_masks)
            truth = {"boxes": targets.boxes, "labels": targets.labels}
            found = above_threshold(one, image.height, image.width)
            if targets.masks is not None:
                truth["masks"] = targets.masks
            rows.append([draw_objects(image, objects, self.data.class_names) for objects in (truth, found)])
        draw_sheet(rows, ("annotated", "found"), folder / f"predictions_{split}.png")


def above_threshold(found: ObjectLists, height: int, width: int) -> dict[str, list]:
    """What [`to_lists`] gave, without the objects that score too little to draw, masks decoded."""
    kept = [number for number, score in enumerate(found["scores"]) if score >= DRAWN_ABOVE]
    objects: dict[str, list] = {
        "boxes": [found["boxes"][number] for number in kept],
        "labels": [found["labels"][number] for number in kept],
        "scores": [found["scores"][number] for number in kept],
    }
    if "masks" in found:
        segmentations = [{"size": [height, width], "counts": found["masks"][number]} for number in kept]
        objects["masks"] = [decode_mask({"segmentation": one}, height, width) for one in segmentations]
    return objects


def to_lists(found: Objects) -> ObjectLists:
    """Objects of one image as plain lists, masks as RLE counts."""
    lists: ObjectLists = {
        "boxes": found["boxes"].cpu().double().tolist(),
        "scores": found["scores"].cpu().double().tolist(),
        "labels": found["labels"].cpu().tolist(),
    }
    if "masks" in found:
        lists["masks"] = [encode_mask(np.asarray(mask))["counts"] for mask in found["masks"].cpu()]
    return lists
