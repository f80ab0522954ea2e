"""Predict labels with a loaded classifier: of transformers, timm or any other library."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

import torch
import transformers
from PIL import Image

from mona_peft.finetuning.data.images import to_rgb

from .predictor import Loaded


class LabelScore(TypedDict):
    """A class and how likely it is.

    Args:
        label (`str`): Name of the class.
        score (`float`): Its probability.
    """

    label: str
    score: float


class LoadedClassifier(Loaded):
    """A classifier ready to predict, and its image processor."""

    def predict(self, images: Iterable[Image.Image], top_k: int = 5) -> list[list[LabelScore]]:
        """The likeliest labels of each image, best first, as `{"label", "score"}`.

        Scores are probabilities: over the classes together, or of each class where an image has several labels.

        Args:
            images (`Iterable[PIL.Image.Image]`): In any mode. Each is prepared before the next is asked for.
            top_k (`int`): Labels an image.

        Raises:
            ValueError: If `top_k` is below 1.
        """
        return self.predict_prepared([self.prepare(image) for image in images], top_k)

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """One image as the model takes it, `(1, 3, H, W)`.

        Raises:
            ValueError: If the repository and its base have no image processor.
        """
        if self.processor is None:
            raise ValueError(
                "Neither the repository nor its base model has an image processor; prepare images as the "
                "model was trained, and call loaded.model."
            )
        return self.processor([to_rgb(image)], return_tensors="pt")["pixel_values"]

    @torch.inference_mode()
    def predict_prepared(self, prepared: Sequence[torch.Tensor], top_k: int = 5) -> list[list[LabelScore]]:
        """The likeliest labels of what [`LoadedClassifier.prepare`] gave."""
        if top_k < 1:
            raise ValueError(f"top_k={top_k!r} must be at least 1: the number of labels an image.")
        if not prepared:
            return []
        outputs = self.model(self.to_model(torch.cat(list(prepared))))
        bare = self.bare_model()
        logits = outputs if isinstance(outputs, torch.Tensor) else outputs.logits
        return label_scores(logits.float(), getattr(bare, "config", bare), top_k)

    def pipeline(self, **options: Any) -> Any:
        """A transformers `pipeline("image-classification")` with this model.

        Pipelines know the classes of transformers, so they get the model inside the `PeftModel`, adapters in place.

        Args:
            **options: Further arguments of `transformers.pipeline`.
        """
        bare = self.bare_model()
        return transformers.pipeline(
            "image-classification", model=bare, image_processor=self.processor, device=bare.device, **options
        )


def label_scores(logits: torch.Tensor, config: object, top_k: int = 5) -> list[list[LabelScore]]:
    """Logits `(B, classes)` as the likeliest labels with their probabilities.

    Args:
        logits (`torch.Tensor`): `(B, classes)`.
        config (`object`): With `id2label` and `problem_type`, as transformers' have; labels are numbered without.
        top_k (`int`): Labels an image.
    """
    several = getattr(config, "problem_type", None) == "multi_label_classification"
    names = getattr(config, "id2label", None) or {}
    best = (logits.sigmoid() if several else logits.softmax(1)).topk(min(top_k, logits.shape[1]))
    return [
        [
            {"label": names.get(label, f"LABEL_{label}"), "score": score}
            for label, score in zip(labels, scores, strict=True)
        ]
        for labels, scores in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
