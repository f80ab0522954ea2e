"""Save a model that was trained with any loop as a repository that loads by itself.

`mona_peft.save(model, "flowers", processor, labels=["daisy", "rose"])`
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from peft import PeftModel, get_peft_model_state_dict
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from mona_peft.finetuning.files import write_json
from mona_peft.finetuning.model_card import keeping_card, usage_for, write_card
from mona_peft.finetuning.models.architectures import ARCHITECTURES, architecture_of
from mona_peft.finetuning.repository import ADAPTER_CONFIG, LABELS, bare_model, save_adapters, save_repository

from .building import is_classifier


def save(
    model: nn.Module,
    folder: str | Path,
    processor: BaseImageProcessor | None = None,
    labels: Sequence[str] | None = None,
    dataset: str | None = None,
    figures: Mapping[str, Mapping[str, float]] | None = None,
) -> Path:
    """Write an adapted model with all that `mona_peft.load` and the Hub want of it.

    The folder gets the weights (adapter and head), the model's configuration with the names of the classes, the image
    processor and a model card. A card that somebody wrote by hand is left as it is. Of several adapters the active one
    is what `mona_peft.load` gives; the others are in folders of their names.

    Args:
        model (`nn.Module`): A `PeftModel`, around a model of transformers, timm or another library; or a model of
            transformers after its own `add_adapter`, or trained without an adapter.
        folder (`str` or `Path`): Created where missing.
        processor (`BaseImageProcessor`, *optional*): The image processor that goes with the model. A timm model knows
            its own.
        labels (`Sequence[str]`, *optional*): Names of the classes, by label; the model's own if left out.
        dataset (`str`, *optional*): What it was trained on, for the card; a Hub id is linked.
        figures (`Mapping`, *optional*): For the card: `{"test": {"accuracy": 0.91}}`, also of `"validation"`.

    Returns:
        `Path`: The folder.

    Raises:
        ValueError: If there is nothing to save as a repository, the labels are not as many as the classes, the
            processor cannot be saved, the folder holds a model that would be loaded in its place, or several adapters
            act together.
    """
    folder = Path(folder)
    bare = bare_model(model)
    if processor is not None and not hasattr(processor, "save_pretrained"):
        raise ValueError(
            f"processor={type(processor).__name__} has no save_pretrained; give an image processor of transformers, "
            "such as AutoImageProcessor.from_pretrained(...)."
        )
    if isinstance(model, PeftModel):
        _warn_of_unsaved(model)
    with keeping_card(folder):
        if isinstance(bare, PreTrainedModel):
            _name_classes(bare.config, labels)
            save_repository(model, processor, folder)
        else:
            _save_foreign(model, processor, labels, folder)
        facts = _facts(model, dataset)
        write_card(folder, facts, dict(figures or {}), usage_for(facts.get("task"), str(folder)), command=False)
    return folder


def _warn_of_unsaved(model: PeftModel) -> None:
    """Warn of parameters that train and are in no adapter's file, such as norms unfrozen by hand."""
    saved = {
        tensor.data_ptr()
        for name in model.peft_config
        for tensor in get_peft_model_state_dict(model, adapter_name=name).values()
    }
    trained = [n for n, p in model.named_parameters() if p.requires_grad and p.data_ptr() not in saved]
    if trained:
        warnings.warn(
            f"{len(trained)} parameters train and are not saved with the adapter, such as {trained[0]}: the model is "
            "loaded without what they learned. Name their modules in modules_to_save before training.",
            stacklevel=3,
        )


def _name_classes(config: PretrainedConfig, labels: Sequence[str] | None) -> None:
    if labels is None:
        return
    names = _checked(labels)
    if len(names) != config.num_labels:
        raise ValueError(
            f"{len(names)} labels for a model of {config.num_labels} classes; give one a class, in order."
        )
    config.id2label = dict(enumerate(names))
    config.label2id = {name: label for label, name in enumerate(names)}


def _checked(labels: Sequence[str]) -> list[str]:
    names = list(labels)
    wrong = [name for name in names if not isinstance(name, str)]
    if isinstance(labels, str) or wrong or len(set(names)) < len(names):
        raise ValueError(f"labels={str(labels)[:80]!r} must be a list of different texts, one a class.")
    return names


def _save_foreign(
    model: nn.Module, processor: BaseImageProcessor | None, labels: Sequence[str] | None, folder: Path
) -> None:
    """An adapter on a model of another library, with the name of a timm model, which PEFT does not record."""
    if not isinstance(model, PeftModel):
        raise ValueError(
            f"{type(model).__name__} is no PeftModel and no model of transformers: save it with its own library."
        )
    names = None if labels is None else _checked(labels)
    pretrained = getattr(bare_model(model), "pretrained_cfg", None) or {}
    save_adapters(model, folder)
    config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    if not config.get("base_model_name_or_path") and pretrained.get("hf_hub_id"):
        write_json(folder / ADAPTER_CONFIG, {**config, "base_model_name_or_path": pretrained["hf_hub_id"]})
    if names is not None:
        write_json(folder / LABELS, {"labels": names})
    if processor is not None:
        processor.save_pretrained(folder)


def _facts(model: nn.Module, dataset: str | None) -> dict[str, str]:
    """What the card tells of the model, as far as the model knows it."""
    bare = bare_model(model)
    pretrained = getattr(bare, "pretrained_cfg", None) or {}
    known = {
        "task": _task_of(bare),
        "base_model": getattr(getattr(bare, "config", None), "name_or_path", None) or pretrained.get("hf_hub_id"),
        "dataset": dataset,
        "method": model.active_peft_config.peft_type.lower() if isinstance(model, PeftModel) else None,
    }
    return {key: value for key, value in known.items() if value}


def _task_of(bare: nn.Module) -> str | None:
    """What a model solves; a model of another library is taken for a classifier."""
    if not isinstance(bare, PreTrainedModel):
        return "image-classification"
    architecture = architecture_of(bare.config)
    if architecture is None:
        return "image-classification" if is_classifier(type(bare)) else None
    task = ARCHITECTURES[architecture].task
    return "object-detection" if task == "detection" else task.replace("_", "-")
