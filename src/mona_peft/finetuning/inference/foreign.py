"""Adapters on models of timm and of other libraries, as plain PEFT saves them."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn
from transformers import AutoImageProcessor
from transformers.image_processing_utils import BaseImageProcessor

from mona_peft.blocks.head import find_head
from mona_peft.finetuning.repository import LABELS, Repository
from mona_peft.finetuning.validation import AGAIN, RepositoryError, read_json

from .building import explained
from .classification import LoadedClassifier
from .fitting import check_adapter, fill
from .predictor import Loaded


def timm_base(repository: Repository, base_model: str | Path | nn.Module | None) -> str | None:
    """Name of the timm model that an adapter is for; `None` if it is for a model of transformers.

    Raises:
        RepositoryError: If it is for a timm model and no name was given: PEFT does not record it.
    """
    mapping = (repository.adapter or {}).get("auto_mapping") or {}
    library = mapping.get("parent_library") if isinstance(mapping, dict) else None
    if repository.config is not None or not isinstance(library, str) or library.split(".")[0] == "transformers":
        return None
    name = str(base_model) if base_model else repository.base
    if library.split(".")[0] != "timm" or not name:
        raise RepositoryError(
            f"{repository.name} is an adapter of a {library.split('.')[0]} model, {mapping.get('base_model_class')}; "
            "give that model: load(..., base_model=model), or the name of a timm model."
        )
    return name


def load_foreign(repository: Repository, base: str | nn.Module) -> Loaded:
    """Load an adapter on a model that is not loaded by transformers.

    Args:
        repository (`Repository`): Of the adapter.
        base (`str` or `nn.Module`): Name of a timm model, or a model.

    Raises:
        RepositoryError: If the repository is no adapter, or it does not fit.
    """
    if repository.adapter is None:
        raise RepositoryError(f"{repository.name} holds no adapter; base_model can only be a model for an adapter.")
    model = _build_timm(base, repository) if isinstance(base, str) else base
    check_adapter(copy.deepcopy(model).to("meta"), repository)
    if (repository.folder / LABELS).exists():
        model.id2label = _read_labels(repository.folder / LABELS)  # type: ignore[assignment]
    return LoadedClassifier(fill(model, repository), _processor_for(repository, model))


def _read_labels(path: Path) -> dict[int, str]:
    names = read_json(path).get("labels")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RepositoryError(f"{path}: labels={str(names)[:80]} must be a list of names, one a class. {AGAIN}")
    return dict(enumerate(names))


def timm_name(name: str) -> str:
    """A name as `timm.create_model` takes it: with its source, where it is a folder or a repository on the Hub."""
    if ":" in name or "/" not in name:
        return name
    return f"local-dir:{name}" if Path(name).is_dir() else f"hf-hub:{name}"


def _build_timm(name: str, repository: Repository) -> nn.Module:
    """A pretrained timm model with as many classes as the adapter's head has."""
    import timm

    with explained(f"The timm model {name!r}"):
        with torch.device("meta"):
            blank = timm.create_model(timm_name(name))
        path = next(iter(find_head(blank) or ()), "")
        head = repository.shapes.get(f"base_model.model.{path}.weight")
        return timm.create_model(timm_name(name), pretrained=True, num_classes=head[0] if head else None)


def _processor_for(repository: Repository, model: nn.Module) -> BaseImageProcessor | None:
    """The repository's image processor, or one of the settings that the model was pretrained with, if it has any."""
    if repository.has_processor:
        with explained(repository.folder):
            return AutoImageProcessor.from_pretrained(repository.folder, trust_remote_code=False)
    settings = getattr(model, "pretrained_cfg", None)
    if settings:
        from transformers import TimmWrapperImageProcessor

        return TimmWrapperImageProcessor(dict(settings), architecture=settings["architecture"])
    name = getattr(model, "name_or_path", None)
    if name:
        try:
            return AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
        except (OSError, ValueError):
            return None  # predict says so
    return None
