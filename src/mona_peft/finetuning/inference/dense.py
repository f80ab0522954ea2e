"""Predict and draw with a loaded segmenter or detector."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from mona_peft.finetuning.data.dense.transforms import PAD_TO, DenseSettings, eval_pixels, pad_batch
from mona_peft.finetuning.data.images import to_rgb
from mona_peft.finetuning.models.architectures import ARCHITECTURES, architecture_of
from mona_peft.finetuning.models.backbones import pads_itself
from mona_peft.finetuning.models.outputs import Batch
from mona_peft.finetuning.models.sliding import slide_logits, windows_of
from mona_peft.finetuning.pictures.drawing import draw_label_map, draw_objects

from .predictor import Loaded


class DenseFinding(TypedDict, total=False):
    """What is in an image, in its own pixels, as arrays of numpy.

    Args:
        labels (`np.ndarray`): `(H, W)` of a semantic segmenter, else one an object.
        boxes (`np.ndarray`, *optional*): `(N, 4)`.
        scores (`np.ndarray`, *optional*): `(N,)`.
        masks (`np.ndarray`, *optional*): `(N, H, W)`, boolean, of an instance segmenter.
        names (`list[str]`, *optional*): Of the objects' classes.
    """

    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    masks: np.ndarray
    names: list[str]


class LoadedDense(Loaded):
    """A segmenter or detector ready to predict, and its image processor."""

    def predict(self, images: Iterable[Image.Image], threshold: float = 0.5) -> list[DenseFinding]:
        """What is in each image, in its own pixels; found window by window where the evaluation was.

        Args:
            images (`Iterable[PIL.Image.Image]`): In any mode.
            threshold (`float`): Objects with a lower score are left out.

        Returns:
            `list[DenseFinding]`: Of a semantic segmenter `labels`; else `boxes`, `scores`, `labels`, `names`, and the
            `masks` of an instance segmenter.
        """
        return [self._predict_one(to_rgb(image), threshold) for image in images]

    def draw(self, image: Image.Image, threshold: float = 0.5) -> Image.Image:
        """A picture of the prediction on the image (enlarged, if it is small)."""
        image = to_rgb(image)
        return self.draw_prediction(image, self._predict_one(image, threshold))

    def draw_prediction(self, image: Image.Image, found: DenseFinding) -> Image.Image:
        """A picture of what [`LoadedDense.predict`] gave for an image."""
        if "boxes" not in found:
            return draw_label_map(to_rgb(image), found["labels"])
        id2label = self.bare_model().config.id2label
        names = [id2label[number] for number in sorted(id2label)]
        return draw_objects(to_rgb(image), found, names)

    @torch.inference_mode()
    def _predict_one(self, image: Image.Image, threshold: float) -> DenseFinding:
        # One image at a time: padded to a common size, an image does not give quite the same.
        config = self.bare_model().config
        architecture = architecture_of(config)
        assert architecture is not None
        find = ARCHITECTURES[architecture].find
        multiple = 1 if find is None and pads_itself(config) else PAD_TO
        pixels, sizes = pad_batch([eval_pixels(image, DenseSettings.from_processor(self.processor))], multiple)
        pixels = self.to_model(pixels)
        height, width = sizes[0].tolist()
        if find is None:
            windows = windows_of(config)
            if windows is None:
                logits = self.model(pixel_values=pixels).logits[..., :height, :width].float()
            else:
                logits = slide_logits(self.model, pixels[0, :, :height, :width], *windows)[None]
            logits = F.interpolate(logits, size=(image.height, image.width), mode="bilinear", align_corners=False)
            return {"labels": logits[0].argmax(0).cpu().numpy()}
        originals = torch.tensor([[image.height, image.width]])
        batch: Batch = {"pixel_values": pixels, "sizes": sizes.to(pixels.device), "original_sizes": originals}
        found = find(self.model, batch)[0]
        kept = found["scores"] >= threshold
        labels = np.asarray(found["labels"][kept].cpu())
        result: DenseFinding = {
            "boxes": np.asarray(found["boxes"][kept].cpu()),
            "scores": np.asarray(found["scores"][kept].cpu()),
            "labels": labels,
            "names": [config.id2label[int(label)] for label in labels],
        }
        if "masks" in found:
            result["masks"] = np.asarray(found["masks"][kept].cpu())
        return result
