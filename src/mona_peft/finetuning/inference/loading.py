"""Load a trained repository, ready to predict.

`model, processor = mona_peft.load("user/repo")`
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from huggingface_hub import snapshot_download
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoImageProcessor

ADAPTER_CONFIG = "adapter_config.json"
DELTA_WEIGHTS = "delta_model.safetensors"
DELTA_CONFIG = "delta_config.json"
# Models that are loaded with their boxes, masks or label maps in view; those of this package start with `mona_`.
DENSE_MODEL_TYPES = frozenset(
    {
        "upernet",
        "detr",
        "conditional_detr",
        "mask2former",
        "mona_backbone_segformer",
        "mona_retinanet",
        "mona_cascade_mask_rcnn",
    }
)


class Loaded(NamedTuple):
    """A model ready to predict, and its image processor.

    Args:
        model (`nn.Module`): in evaluation mode, head and label names included.
        processor (`Any`): prepares images as they were when the model was evaluated.
    """

    model: nn.Module
    processor: Any

    def predict(self, images: Sequence[Any], top_k: int = 5) -> list[list[dict[str, Any]]]:
        """The likeliest labels of each image, best first, as `{"label", "score"}`.

        Scores are probabilities: over the classes together, or of each class where an image has several labels.

        Args:
            images (`Sequence[PIL.Image.Image]`): in any mode.
            top_k (`int`): labels an image.
        """
        from mona_peft.finetuning.data.images import to_rgb

        inputs = self.processor([to_rgb(image) for image in images], return_tensors="pt")
        parameter = next(self.model.parameters())
        pixel_values = inputs["pixel_values"].to(parameter.device, parameter.dtype)
        with torch.inference_mode():
            logits = self.model(pixel_values=pixel_values).logits.float()
        return label_scores(logits, self.model.config, top_k)

    def pipeline(self, **options: Any) -> Any:
        """A transformers `pipeline("image-classification")` with this model.

        Pipelines know the classes of transformers, so they get the model inside the `PeftModel`, adapters in place.

        Args:
            **options: further arguments of `transformers.pipeline`.
        """
        bare: Any = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        return transformers.pipeline(
            "image-classification", model=bare, image_processor=self.processor, device=bare.device, **options
        )


def label_scores(logits: torch.Tensor, config: Any, top_k: int = 5) -> list[list[dict[str, Any]]]:
    """Logits `(B, classes)` as the likeliest labels with their probabilities."""
    several = config.problem_type == "multi_label_classification"
    best = (logits.sigmoid() if several else logits.softmax(1)).topk(min(top_k, logits.shape[1]))
    return [
        [{"label": config.id2label[label], "score": score} for label, score in zip(labels, scores, strict=True)]
        for labels, scores in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def load(
    repo_or_path: str | Path,
    base_model: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Loaded:
    """Load a model saved by this package's training, on its base model.

    Args:
        repo_or_path (`str` or `Path`): a folder, or a repository on the Hub.
        base_model (`str`, *optional*): take the base model from here instead of where it was.
        revision (`str`, *optional*): branch or commit on the Hub.
        token (`str` or `bool`, *optional*): for private repositories.
        device (`str` or `torch.device`, *optional*): where to put the model; the CPU if left out.
        dtype (`torch.dtype`, *optional*): of the weights; as stored if left out.

    Raises:
        `ValueError`: if the repository holds no model of this package, or its weights do not fit the base model.
    """
    folder = Path(repo_or_path)
    if not folder.is_dir():
        folder = Path(snapshot_download(str(repo_or_path), revision=revision, token=token))
    if not (folder / "config.json").exists():
        raise ValueError(f"{repo_or_path} has no config.json: it was not saved by mona_peft's training.")
    dense = _is_dense(folder / "config.json")
    config = AutoConfig.from_pretrained(folder)
    if dense:
        from .dense import load_dense

        loaded = load_dense(folder, config, AutoImageProcessor.from_pretrained(folder), base_model)
        return loaded._replace(model=loaded.model.to(device=device, dtype=dtype))
    model_class = getattr(transformers, config.architectures[0])
    if (folder / ADAPTER_CONFIG).exists():
        base_name = base_model or PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
        model: nn.Module = PeftModel.from_pretrained(_load_base(model_class, base_name, config), str(folder))
    elif (folder / DELTA_CONFIG).exists():
        recorded = json.loads((folder / DELTA_CONFIG).read_text(encoding="utf-8"))
        model = _load_base(model_class, base_model or recorded["base_model_name_or_path"], config)
        _load_delta(model, folder / DELTA_WEIGHTS)
    else:
        model = model_class.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    return Loaded(model.to(device=device, dtype=dtype).eval(), processor)


def _is_dense(path: Path) -> bool:
    """Whether a configuration is of a dense model, whose classes are then known to transformers."""
    model_type = json.loads(path.read_text(encoding="utf-8")).get("model_type", "")
    if model_type not in DENSE_MODEL_TYPES:
        return False
    import mona_peft.finetuning.models.building  # noqa: F401  registers this package's own

    return True


def _load_base(model_class: Any, name: str | None, config: Any) -> nn.Module:
    """The base model with the head of the repository's config; that head's weights come from the repository."""
    if not name:
        raise ValueError("The repository does not say what its base model is; give it: load(..., base_model='...').")
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # that the head does not fit is expected
    try:
        return model_class.from_pretrained(name, config=config, ignore_mismatched_sizes=True)
    finally:
        transformers.logging.set_verbosity(verbosity)


def _load_delta(model: nn.Module, path: Path) -> None:
    result = model.load_state_dict(load_file(path), strict=False)
    if result.unexpected_keys:
        raise ValueError(f"{path} does not fit the base model: it has no {', '.join(result.unexpected_keys)}.")
