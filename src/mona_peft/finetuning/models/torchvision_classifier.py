"""torchvision's classifiers in the clothes of transformers: configuration, saving and loading like any other model.

`torchvision/swin_t` names the default weights of torchvision's `swin_t`. They are written once, as safetensors, into
the cache of the Hub's client; from there on they are a folder as any other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torchvision
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms.functional import InterpolationMode
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    BitImageProcessor,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.image_utils import PILImageResampling
from transformers.modeling_outputs import ImageClassifierOutput

from mona_peft.finetuning.environment import TORCHVISION
from mona_peft.finetuning.files import replacing

RESAMPLING = {
    InterpolationMode.BICUBIC: PILImageResampling.BICUBIC,
    InterpolationMode.BILINEAR: PILImageResampling.BILINEAR,
}


class TorchvisionConfig(PretrainedConfig):
    """Configuration of a torchvision classifier.

    Args:
        architecture (`str`): Its name in torchvision.
        **kwargs: Of `PretrainedConfig`.
    """

    model_type = "mona_torchvision"

    def __init__(self, architecture: str = "swin_t", **kwargs: Any) -> None:
        self.architecture = architecture
        super().__init__(**kwargs)


class TorchvisionForImageClassification(PreTrainedModel):
    """A torchvision classifier that takes `pixel_values` and gives `logits`.

    Args:
        config (`TorchvisionConfig`): With the labels.
    """

    config_class = TorchvisionConfig
    base_model_prefix = "torchvision_model"
    main_input_name = "pixel_values"

    def __init__(self, config: TorchvisionConfig) -> None:
        super().__init__(config)
        self.torchvision_model = torchvision.models.get_model(config.architecture, num_classes=config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Leave the weights that torchvision draws."""

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> ImageClassifierOutput:
        """Logits `(B, classes)` of images `(B, 3, H, W)`."""
        return ImageClassifierOutput(logits=self.torchvision_model(pixel_values))


AutoConfig.register(TorchvisionConfig.model_type, TorchvisionConfig, exist_ok=True)
AutoModelForImageClassification.register(TorchvisionConfig, TorchvisionForImageClassification, exist_ok=True)


def write_pretrained(name: str) -> Path:
    """The folder of a pretrained torchvision model, written if it is not there.

    Args:
        name (`str`): `torchvision/` and a name of `torchvision.models.list_models()`.

    Raises:
        ValueError: If torchvision has no such classifier, or no weights for it.
    """
    architecture = name.removeprefix(TORCHVISION)
    folder = Path(constants.HF_HOME) / "mona_peft" / "torchvision" / architecture
    if (folder / "model.safetensors").exists():
        return folder
    known = torchvision.models.list_models(module=torchvision.models)
    if architecture not in known:
        raise ValueError(f"torchvision has no classifier {architecture!r}; it has {', '.join(known)}.")
    state, processor, labels = pretrained(architecture)
    model = TorchvisionForImageClassification(TorchvisionConfig(architecture, id2label=dict(enumerate(labels))))
    model.torchvision_model.load_state_dict(state)
    model.config.architectures = [type(model).__name__]
    processor.save_pretrained(folder)
    model.config.save_pretrained(folder)
    with replacing(folder / "model.safetensors") as temporary:
        # the weights last and at once: a folder that has them is whole
        save_file(contiguous(model), temporary, metadata={"format": "pt"})
    return folder


def contiguous(model: nn.Module) -> dict[str, Tensor]:
    """A model's tensors, as safetensors stores them."""
    return {key: tensor.contiguous() for key, tensor in model.state_dict().items()}


def pretrained(architecture: str) -> tuple[dict[str, Tensor], BitImageProcessor, list[str]]:
    """Torchvision's default weights of a classifier, the image processor that goes with them, and their labels.

    Raises:
        ValueError: If there are none.
    """
    weights = getattr(torchvision.models.get_model_weights(architecture), "DEFAULT", None)
    if weights is None:
        raise ValueError(f"torchvision has no pretrained weights of {architecture!r}; name a model that has.")
    prepare = weights.transforms()
    processor = BitImageProcessor(
        size={"shortest_edge": prepare.resize_size[0]},
        crop_size={"height": prepare.crop_size[0], "width": prepare.crop_size[0]},
        resample=RESAMPLING[prepare.interpolation],
        image_mean=list(prepare.mean),
        image_std=list(prepare.std),
    )
    return weights.get_state_dict(check_hash=True), processor, list(weights.meta["categories"])
