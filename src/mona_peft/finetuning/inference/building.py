"""What is built to check and load a repository: configuration, model class, a model without memory, the processor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, PretrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.image_processing_utils import BaseImageProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from mona_peft.finetuning.data.dense.transforms import DenseSettings
from mona_peft.finetuning.models import torchvision_classifier
from mona_peft.finetuning.models.building import ARCHITECTURES, architecture_of
from mona_peft.finetuning.models.sliding import windows_of
from mona_peft.finetuning.repository import MODEL_CONFIG, PROCESSOR_CONFIG, Base, Repository
from mona_peft.finetuning.validation import AGAIN, RepositoryError, first_line, read_json

MOST_PIXELS = 8192  # of a side of what a model gets to see


@contextmanager
def explained(what: str | Path) -> Iterator[None]:
    """Give an error of another library as one of ours, that names `what` could not be built or loaded."""
    try:
        yield
    except RepositoryError:
        raise
    except Exception as error:
        # Whatever a file can hold, the libraries meet it somewhere: with TypeErrors, KeyErrors, RuntimeErrors ...
        raise RepositoryError(f"{what} cannot be loaded: {first_line(error).rstrip('.')}. {AGAIN}") from error


def read_config(repository: Repository, base: Base | None, code: bool) -> PretrainedConfig:
    """Configuration of the model: the repository's own, or the base model's where it has none.

    Raises:
        RepositoryError: If it cannot be, or its labels do not fit it.
    """
    own = repository.config is not None or base is None
    folder = repository.folder if own else base.folder  # type: ignore[union-attr]
    with explained(folder / MODEL_CONFIG):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=code)
        numbers = set(config.id2label or {})
        windows_of(config)
    if numbers != set(range(config.num_labels)):
        raise RepositoryError(
            f"{folder / MODEL_CONFIG}: id2label names {len(numbers)} labels, which are not the numbers 0 to "
            f"{config.num_labels - 1}. {AGAIN}"
        )
    return config


def find_model_class(repository: Repository, config: PretrainedConfig, code: bool) -> type[PreTrainedModel]:
    """The class of the model, where it is a classifier or a dense model; of an adapter without configuration, any.

    Raises:
        RepositoryError: If there is none of this name, or it is of another kind.
    """
    architecture = architecture_of(config)
    if architecture is not None:
        return ARCHITECTURES[architecture].model_class
    content, name = repository.config or {}, _class_name(repository, config)
    if code and "AutoModelForImageClassification" in (content.get("auto_map") or {}):
        reference = content["auto_map"]["AutoModelForImageClassification"]
        return get_class_from_dynamic_module(reference, str(repository.folder))
    model_class = _model_class(name)
    fitting = model_class is not None and isinstance(config, model_class.config_class or ())
    if model_class is None or not fitting or (repository.config is not None and not is_classifier(model_class)):
        raise RepositoryError(
            f"{repository.folder / MODEL_CONFIG}: architectures names {name!r}, which is no image classifier of the "
            f"model type {config.model_type!r}, nor a segmenter or detector of this package. Correct 'architectures'."
        )
    return model_class


def _model_class(name: object) -> type[PreTrainedModel] | None:
    """The model of transformers, or of this package, whose class has this name."""
    if not isinstance(name, str) or not name.isidentifier():
        return None
    places = (transformers, torchvision_classifier)
    found = next((getattr(place, name) for place in places if hasattr(place, name)), None)
    return found if isinstance(found, type) and issubclass(found, PreTrainedModel) else None


def _class_name(repository: Repository, config: PretrainedConfig) -> object:
    if repository.config is None and repository.adapter is not None:
        mapping = repository.adapter.get("auto_mapping") or {}
        if mapping.get("base_model_class"):
            return mapping["base_model_class"]
    names = config.architectures
    return names[0] if isinstance(names, list) and names else names


def is_classifier(model_class: type) -> bool:
    """Whether transformers lists a class among its image classifiers (or it came with the repository)."""
    listed: set[str] = set()
    for names in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.values():
        listed |= {names} if isinstance(names, str) else set(names)
    return model_class.__name__ in listed or not model_class.__module__.startswith("transformers.")


def blank_model(model_class: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    """The model on the meta device: names and shapes, without memory."""
    with explained(f"The model of the configuration ({MODEL_CONFIG})"), torch.device("meta"):
        return model_class(config)


def read_processor(repository: Repository, base: Base | None, code: bool, dense: bool) -> BaseImageProcessor | None:
    """The image processor: the repository's own, or the base model's where it has none; tried on an image.

    Raises:
        RepositoryError: If it does not prepare an image.
    """
    own = repository.has_processor or base is None
    folder = repository.folder if own else base.folder  # type: ignore[union-attr]
    file = folder / PROCESSOR_CONFIG
    content = read_json(file)
    sizes = [value for key in ("size", "crop_size") for value in _numbers(content.get(key))]
    if any(not 0 < size <= MOST_PIXELS for size in sizes):
        raise RepositoryError(f"{file}: a size of {sizes} is not between 1 and {MOST_PIXELS} pixels. Correct it.")
    with explained(file):
        # The file is named: of a folder with a timm model transformers would read timm's settings instead.
        options = {"trust_remote_code": code, "image_processor_filename": PROCESSOR_CONFIG}
        processor = AutoImageProcessor.from_pretrained(folder, **options)
        if dense:
            DenseSettings.from_processor(processor)
        pixels = processor([Image.new("RGB", (16, 16))], return_tensors="pt")["pixel_values"]
        if pixels.ndim != 4 or not np.isfinite(pixels.float().numpy()).all():
            raise ValueError(f"it makes {list(pixels.shape)} with values that are not all finite of a black image")
    return processor


def _numbers(value: object) -> list[float]:
    values = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, int | float)]
