"""Models that share the tensors of one base model and have adapters and heads of their own."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from mona_peft.blocks.head import find_head
from mona_peft.finetuning.inference.building import blank_model, is_classifier
from mona_peft.finetuning.inference.loading import load_weights
from mona_peft.finetuning.repository import Base, Repository
from mona_peft.finetuning.validation import RepositoryError

# What adapters of one base model may differ in: their labels, what acts in training alone, and notes.
LABEL_KEYS = {"id2label", "label2id", "num_labels", "problem_type"}
NOTE_KEYS = {"architectures", "_name_or_path", "transformers_version", "dtype", "torch_dtype", "drop_path_rate"}

Model = TypeVar("Model", bound=nn.Module)


class SharedBase:
    """The base model of the first repository, which every later one has to be made for.

    Args:
        device (`torch.device`, *optional*): Where the base model is put.
        dtype (`torch.dtype`, *optional*): Of its weights; as stored if left out.
    """

    def __init__(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        self.device, self.dtype = device, dtype
        self.model: PreTrainedModel | None = None
        self.origin: tuple[str, str | None] | None = None  # where it is from, and at which commit

    def build(
        self, model_class: type[PreTrainedModel], config: PretrainedConfig, repository: Repository, base: Base | None
    ) -> PreTrainedModel:
        """A model with the tensors of the base model and a head of its own, empty until the adapter fills it.

        Raises:
            RepositoryError: If the repository is no adapter with a head for a classifier on this base model.
        """
        if repository.adapter is None or base is None:
            raise RepositoryError(f"{repository.name} holds no adapter; load it alone: mona_peft.load(...).")
        if not is_classifier(model_class):
            raise RepositoryError(
                f"{repository.name} is for a {model_class.__name__}; adapters of image classifiers share a base model."
            )
        if self.model is None:
            model: Any = load_weights(model_class, config, repository, base)
            self.model = model.to(device=self.device, dtype=self.dtype).eval()
            self.origin = (str(base.folder.resolve()), repository.base_revision)
        self._check(model_class, config, repository, base)
        return self._with_new_head(model_class, config, repository)

    def versions(self) -> list[int]:
        """How often each tensor has been written to: the same before and after an adapter is put in."""
        return [tensor._version for tensor in tensors(self.model)] if self.model is not None else []

    def _check(
        self, model_class: type[PreTrainedModel], config: PretrainedConfig, repository: Repository, base: Base
    ) -> None:
        assert self.model is not None and self.origin is not None
        folder, revision = self.origin
        others = {revision, repository.base_revision} - {None}
        if str(base.folder.resolve()) != folder or len(others) > 1:
            raise RepositoryError(
                f"{repository.name} is for the base model {base.name} at {base.folder}, but the one in memory is from "
                f"{folder}. Give each base model a router of its own, or name the same base_model for all."
            )
        differing = _differing(self.model.config.to_dict(), config.to_dict())
        if type(self.model) is not model_class or differing:
            raise RepositoryError(
                f"{repository.name} is for a {model_class.__name__} with other settings than the "
                f"{type(self.model).__name__} in memory ({', '.join(differing) or 'another class'}). Serve it from a "
                "router of its own."
            )

    def _with_new_head(
        self, model_class: type[PreTrainedModel], config: PretrainedConfig, repository: Repository
    ) -> PreTrainedModel:
        assert self.model is not None
        model: Any = share(self.model)
        blank = blank_model(model_class, config)
        for path in find_head(model) or ():
            head = blank.get_submodule(path)
            lacking = [n for n in head.state_dict() if f"base_model.model.{path}.{n}" not in repository.shapes]
            if lacking:
                raise RepositoryError(
                    f"{repository.weights} holds no head: {path}.{lacking[0]} is not in it. Train the adapter with "
                    f"modules_to_save=[{path!r}], or serve it alone."
                )
            model.set_submodule(path, _zeros(head, next(self.model.parameters())))
        model.config = config
        if hasattr(model, "num_labels"):
            model.num_labels = config.num_labels
        return model.eval()


def share(model: Model) -> Model:
    """A copy whose parameters and buffers are those of `model`: modules of its own, and no memory for tensors."""
    memo: dict[int, object] = {}
    for tensor in tensors(model):
        alias = tensor.detach()
        memo[id(tensor)] = nn.Parameter(alias, requires_grad=False) if isinstance(tensor, nn.Parameter) else alias
    return copy.deepcopy(model, memo)


def tensors(model: nn.Module | None) -> Iterable[Tensor]:
    """Every parameter and buffer, once."""
    return [] if model is None else [*model.parameters(), *model.buffers()]


def own_bytes(model: nn.Module, base: nn.Module | None = None) -> int:
    """Bytes of the tensors of a model that are not the base model's."""
    known = {tensor.untyped_storage().data_ptr() for tensor in tensors(base)}
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors(model)}
    return sum(size for place, size in storages.items() if place not in known)


def _zeros(head: nn.Module, like: Tensor) -> nn.Module:
    head = head.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in tensors(head):
            tensor.zero_()
    return head.to(device=like.device, dtype=like.dtype)


def _differing(one: dict[str, object], two: dict[str, object]) -> list[str]:
    left_out = LABEL_KEYS | NOTE_KEYS
    keys = sorted(key for key in one.keys() | two.keys() if key not in left_out and "dropout" not in key)
    return [key for key in keys if one.get(key) != two.get(key)]
