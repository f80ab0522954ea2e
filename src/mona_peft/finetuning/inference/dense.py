"""Load a trained dense model, and predict and draw with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftConfig, PeftModel
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from mona_peft.finetuning.data.dense.transforms import DenseSettings, eval_pixels, pad_batch
from mona_peft.finetuning.data.images import to_rgb
from mona_peft.finetuning.models.architectures import ARCHITECTURES, architecture_of
from mona_peft.finetuning.models.building import rebuild_model
from mona_peft.finetuning.pictures.drawing import draw_label_map, draw_objects

from .loading import ADAPTER_CONFIG, DELTA_CONFIG, DELTA_WEIGHTS, Loaded


class LoadedDense(Loaded):
    """A segmenter or detector ready to predict, and its image processor."""

    def predict(self, images: Sequence[Any], threshold: float = 0.5) -> list[dict[str, Any]]:  # type: ignore[override]
        """What is in each image, in its own pixels.

        Args:
            images (`Sequence[PIL.Image.Image]`): in any mode.
            threshold (`float`): objects with a lower score are left out.

        Returns:
            `list[dict]`: of a semantic segmenter `labels` `(H, W)`; else `boxes` `(N, 4)`, `scores`, `labels`, `names`
            and, of an instance segmenter, boolean `masks` `(N, H, W)`. Arrays are numpy's.
        """
        return [self._predict_one(to_rgb(image), threshold) for image in images]

    def draw(self, image: Image.Image, threshold: float = 0.5) -> Image.Image:
        """A picture of the prediction on the image (enlarged, if it is small)."""
        image = to_rgb(image)
        return self.draw_prediction(image, self._predict_one(image, threshold))

    def draw_prediction(self, image: Image.Image, found: dict[str, Any]) -> Image.Image:
        """A picture of what [`LoadedDense.predict`] gave for an image."""
        if "boxes" not in found:
            return draw_label_map(to_rgb(image), found["labels"])
        id2label: Any = self.model.config.id2label  # type: ignore[union-attr]
        names = [id2label[number] for number in sorted(id2label)]
        return draw_objects(to_rgb(image), found, names)

    @torch.inference_mode()
    def _predict_one(self, image: Image.Image, threshold: float) -> dict[str, Any]:
        # One image at a time: what is padded to a common size is not quite what the same image gives alone.
        config: Any = self.model.config
        architecture = architecture_of(config)
        assert architecture is not None
        find = ARCHITECTURES[architecture].find
        parameter = next(self.model.parameters())
        pixels, sizes = pad_batch([eval_pixels(image, DenseSettings.from_processor(self.processor))])
        pixels = pixels.to(parameter.device, parameter.dtype)
        height, width = sizes[0].tolist()
        if find is None:
            logits = self.model(pixel_values=pixels).logits[..., :height, :width].float()
            logits = F.interpolate(logits, size=(image.height, image.width), mode="bilinear", align_corners=False)
            return {"labels": logits[0].argmax(0).cpu().numpy()}
        originals = torch.tensor([[image.height, image.width]])
        batch = {"pixel_values": pixels, "sizes": sizes.to(pixels.device), "original_sizes": originals}
        found = find(self.model, batch)[0]
        kept = found["scores"] >= threshold
        result: dict[str, Any] = {name: np.asarray(value[kept].cpu()) for name, value in found.items()}
        return {**result, "names": [config.id2label[int(label)] for label in result["labels"]]}


def load_dense(folder: Path, config: Any, processor: Any, base_model: str | None = None) -> LoadedDense:
    """Load a dense model saved by this package's training.

    Args:
        folder (`Path`): the repository.
        config (`PretrainedConfig`): of the model, from there.
        processor (`Any`): the image processor, from there.
        base_model (`str`, *optional*): take the backbone from here instead of where it was.

    Raises:
        `ValueError`: if the weights do not fit.
    """
    if (folder / ADAPTER_CONFIG).exists():
        base = base_model or PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
        model: nn.Module = PeftModel.from_pretrained(rebuild_model(config, _known(base)), str(folder))
    elif (folder / DELTA_CONFIG).exists():
        recorded = json.loads((folder / DELTA_CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"]
        model = rebuild_model(config, _known(base_model or recorded))
        result = model.load_state_dict(load_file(folder / DELTA_WEIGHTS), strict=False)
        if result.unexpected_keys:
            raise ValueError(f"{folder / DELTA_WEIGHTS} does not fit its base: {result.unexpected_keys}.")
    else:
        architecture = architecture_of(config)
        assert architecture is not None
        model = ARCHITECTURES[architecture].model_class.from_pretrained(folder)
    return LoadedDense(model.eval(), processor)


def _known(base: str | None) -> str:
    if not base:
        raise ValueError("The repository does not say what its base model is; give it: load(..., base_model='...').")
    return base
