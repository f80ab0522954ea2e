"""Load a trained repository, ready to predict.

`model, processor = mona_peft.load("user/repo")`

Everything is checked before it is built: the files when the repository is opened, their tensors against a model
without memory (on the meta device), and the base model's weights by what transformers says of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from mona_peft.blocks.head import find_head
from mona_peft.finetuning.models.architectures import architecture_of
from mona_peft.finetuning.models.building import rebuild_model
from mona_peft.finetuning.models.positions import load_resized
from mona_peft.finetuning.models.pretrained import load_fitting
from mona_peft.finetuning.repository import Base, Repository, open_base, open_repository
from mona_peft.finetuning.validation import RepositoryError

from .building import blank_model, explained, find_model_class, is_classifier, read_config, read_processor
from .classification import LoadedClassifier
from .dense import LoadedDense
from .fitting import check_adapter, check_delta, check_size, fill
from .foreign import load_foreign, timm_base
from .predictor import Loaded

__all__ = ["Loaded", "load"]

# One model is built at a time. While transformers builds one it has its own functions in the place of torch.nn.init's;
# two threads at once could leave them there, where they give no weights to layers that were loaded before.
_building = threading.Lock()

# Makes the bare model of a repository: from its class, its configuration, the repository and the base model.
Build = Callable[[type[PreTrainedModel], PretrainedConfig, Repository, Base | None], PreTrainedModel]


def load(
    repo_or_path: str | Path,
    base_model: str | Path | nn.Module | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
) -> Loaded:
    """Load a model saved by this package's training, by PEFT or by `transformers.Trainer`, on its base model.

    Args:
        repo_or_path (`str` or `Path`): A folder, or a repository on the Hub.
        base_model (`str`, `Path` or `nn.Module`, *optional*): Take the base model from here instead of where it was:
            a folder, a Hub id, the name of a timm model, or a model itself (which is changed in place).
        revision (`str`, *optional*): Branch or commit of the repository. The base model is taken at the commit that
            the repository records.
        token (`str` or `bool`, *optional*): For private repositories.
        device (`str` or `torch.device`, *optional*): Where to put the model; the CPU if left out.
        dtype (`torch.dtype`, *optional*): Of the weights; as stored if left out.
        trust_remote_code (`bool`): Whether to run code that the repository brings.

    Raises:
        RepositoryError: If the repository holds no model, a file of it is not what it must be, or its weights do not
            fit the base model. It is a `ValueError` that says which, and what to do.
    """
    repository = open_repository(repo_or_path, revision, token, trust_remote_code)
    with _building:
        if isinstance(base_model, nn.Module):
            loaded = load_foreign(repository, base_model)
        elif (name := timm_base(repository, base_model)) is not None:
            loaded = load_foreign(repository, name)
        else:
            loaded = _load_on_base(repository, base_model, token, trust_remote_code, load_weights)
    return loaded._replace(model=loaded.model.to(device=device, dtype=dtype).eval())


def load_with(
    repository: Repository, base_model: str | Path | None, token: str | bool | None, code: bool, build: Build
) -> Loaded:
    """Load a repository whose bare model `build` makes; it has been checked that the repository fits it.

    Args:
        repository (`Repository`): An adapter for a model of transformers or of this package.
        base_model (`str` or `Path`, *optional*): As in [`load`].
        token (`str` or `bool`, *optional*): For private repositories.
        code (`bool`): Whether to run code that the repository brings.
        build (`Build`): Makes the bare model.

    Raises:
        RepositoryError: As in [`load`].
    """
    with _building:
        return _load_on_base(repository, base_model, token, code, build)


def _load_on_base(
    repository: Repository, base_model: str | Path | None, token: str | bool | None, code: bool, build: Build
) -> Loaded:
    """Load a repository whose model is one of transformers' or of this package."""
    base = None if repository.is_whole else _find_base(repository, base_model, token)
    config = read_config(repository, base, code)
    model_class = find_model_class(repository, config, code)
    blank = blank_model(model_class, config)
    if repository.config is None and is_classifier(model_class):
        _adopt_classes(blank, repository)
        config = blank.config
        blank = blank_model(model_class, config)
    check_size(blank, repository, base)
    if repository.adapter is not None:
        check_adapter(blank, repository)
    elif repository.delta is not None:
        check_delta(blank, repository)
    with explained(f"{base.name if base else repository.folder}"):
        bare = build(model_class, config, repository, base)
    model = fill(bare, repository)
    processor = read_processor(repository, base, code, dense=architecture_of(config) is not None)
    if architecture_of(config) is not None:
        return LoadedDense(model, processor)
    return LoadedClassifier(model, processor) if is_classifier(model_class) else Loaded(model, processor)


def _find_base(repository: Repository, base_model: str | Path | None, token: str | bool | None) -> Base:
    name = str(base_model) if base_model else repository.base
    if not name:
        raise RepositoryError(
            f"{repository.name} does not say what its base model is; give it: load(..., base_model='...')."
        )
    recorded = name == repository.base and not Path(name).is_dir()
    return open_base(name, repository.base_revision if recorded else None, token)


def _adopt_classes(blank: PreTrainedModel, repository: Repository) -> None:
    """As many classes as the adapter's head has, where the adapter came without the configuration of its model."""
    for path in find_head(blank) or ():
        shape = repository.shapes.get(f"base_model.model.{path}.weight")
        if shape and isinstance(blank.get_submodule(path), nn.Linear) and shape[0] != blank.config.num_labels:
            blank.config.num_labels = shape[0]


def load_weights(
    model_class: type[PreTrainedModel], config: PretrainedConfig, repository: Repository, base: Base | None
) -> PreTrainedModel:
    """The whole model, or the base model with a head that the repository fills."""
    if base is None:
        model, info = load_fitting(model_class, str(repository.folder), config, lambda model: ())
        if info["unexpected_keys"]:
            raise ValueError(f"its weights hold unknown tensors: {', '.join(sorted(info['unexpected_keys'])[:3])}")
        return model
    if architecture_of(config) is not None:
        model = rebuild_model(config, str(base.folder))
    else:
        classifies = is_classifier(model_class)
        model = load_resized(model_class, str(base.folder), config, lambda m: (classifies and find_head(m)) or ())
    model.config.name_or_path = model.name_or_path = base.name
    return model
