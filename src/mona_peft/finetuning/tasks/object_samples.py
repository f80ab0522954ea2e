"""Images with objects as samples and batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import torch
from torch.utils.data import Dataset

from mona_peft.finetuning.data.dense.objects import ObjectImage
from mona_peft.finetuning.data.dense.targets import training_targets
from mona_peft.finetuning.data.dense.transforms import DenseSettings, ObjectTransform, eval_pixels, pad_batch
from mona_peft.finetuning.models.detector_base import Objects
from mona_peft.finetuning.models.outputs import Batch


class ObjectSample(TypedDict):
    """An image and what is annotated on it.

    Args:
        pixels (`Tensor`): `(3, H, W)`.
        original_size (`tuple[int, int]`): Height and width before resizing, pixels.
        index (`int`): Its place in the split.
        turn (`int`): EXIF orientation by which its annotations have to turn.
        targets (`Objects`, *optional*): In training.
    """

    pixels: torch.Tensor
    original_size: tuple[int, int]
    index: int
    turn: int
    targets: NotRequired[Objects]


class ObjectSamples(Dataset):
    """One split as samples.

    Args:
        images (`Sequence[ObjectImage]`): The split.
        category_ids (`Sequence[int]`): By label.
        settings (`DenseSettings`): Of test images.
        transform (`ObjectTransform`, *optional*): For training, where the samples have targets.
        with_masks (`bool`): Whether targets have masks.
    """

    def __init__(
        self,
        images: Sequence[ObjectImage],
        category_ids: Sequence[int],
        settings: DenseSettings,
        transform: ObjectTransform | None,
        with_masks: bool,
    ) -> None:
        self.images = images
        self.category_ids = category_ids
        self.settings = settings
        self.transform = transform
        self.with_masks = with_masks

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> ObjectSample:
        picture, turn = self.images[index].open()
        image = self.images[index].turned(turn)
        size = (image.height, image.width)
        if self.transform is None:
            pixels = eval_pixels(picture, self.settings)
            return {"original_size": size, "index": index, "turn": turn, "pixels": pixels}
        pixels, targets = self.transform(picture, training_targets(image, self.category_ids, self.with_masks))
        return {"original_size": size, "index": index, "turn": turn, "pixels": pixels, "targets": targets}


def collate_objects(samples: list[ObjectSample]) -> Batch:
    """Pad the images of samples to one batch, as the architectures take it, with `index` and `turn`."""
    pixel_values, sizes = pad_batch([sample["pixels"] for sample in samples])
    batch: Batch = {
        "pixel_values": pixel_values,
        "sizes": sizes,
        "original_sizes": torch.tensor([sample["original_size"] for sample in samples]),
        "index": [sample["index"] for sample in samples],
        "turn": [sample["turn"] for sample in samples],
    }
    if "targets" in samples[0]:
        batch["targets"] = [sample["targets"] for sample in samples]
    return batch
