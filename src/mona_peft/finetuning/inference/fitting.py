"""Whether a repository's tensors fit its model, asked of a model without memory; and putting them in."""

from __future__ import annotations

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from mona_peft.blocks.head import find_head
from mona_peft.finetuning.repository import ADAPTER_CONFIG, DELTA_CONFIG, MODEL_CONFIG, Base, Repository, count
from mona_peft.finetuning.validation import RepositoryError, check_expressions, compare_shapes

from .building import explained

SPARE = 10_000_000  # numbers that a model may have besides those in its files, such as a fresh head


def check_size(blank: nn.Module, repository: Repository, base: Base | None) -> None:
    """Refuse a configuration of a much larger model than the files hold, before memory is asked for."""
    wanted = sum(parameter.numel() for parameter in blank.parameters())
    stored = count(repository.shapes) + (base.parameters if base else 0)
    if wanted > 2 * stored + SPARE:
        raise RepositoryError(
            f"{repository.folder / MODEL_CONFIG} describes a model of {wanted:.3g} parameters, but the weights"
            f"{f' (with those of {base.name})' if base else ''} hold {stored:.3g}. Correct the sizes in it, or "
            "save the repository again."
        )


def check_adapter(blank: nn.Module, repository: Repository) -> None:
    """Check that an adapter's file has exactly the tensors of its configuration on this model.

    Args:
        blank (`nn.Module`): The base model without memory; it gets an adapter, too.
        repository (`Repository`): Of the adapter.

    Raises:
        RepositoryError: If the configuration does not fit the model, or the file has other tensors.
    """
    file = repository.folder / ADAPTER_CONFIG
    assert repository.adapter is not None
    check_expressions(repository.adapter, [name for name, _ in blank.named_modules()], str(file))
    # Not PEFT's low_cpu_mem_usage: it changes torch.nn.Module for all threads, and moves what has been allocated.
    with explained(file), torch.device("meta"):
        probe = PeftModel(blank, PeftConfig.from_pretrained(str(repository.folder)))
        state = get_peft_model_state_dict(probe, save_embedding_layers=False)
    wanted = {name: tuple(tensor.shape) for name, tensor in state.items()}
    compare_shapes(repository.shapes, wanted, str(repository.weights), f"{type(blank).__name__} with its adapter")


def check_delta(blank: PreTrainedModel, repository: Repository) -> None:
    """Check that a delta's tensors are the model's, and that none is missing that must have trained."""
    assert repository.delta is not None
    shapes = {name: tuple(tensor.shape) for name, tensor in blank.state_dict().items()}
    recorded = repository.delta.get("tensors")
    heads = [f"{path}." for path in find_head(blank) or ()]
    parameters = [name for name, _ in blank.named_parameters() if name.startswith(tuple(heads))]
    if not (recorded is None or (isinstance(recorded, list) and all(isinstance(name, str) for name in recorded))):
        raise RepositoryError(f"{repository.folder / DELTA_CONFIG}: tensors={recorded!r} must be a list of names.")
    lacking = sorted({*parameters, *(recorded or [])} - repository.shapes.keys())
    if lacking:
        raise RepositoryError(
            f"{repository.weights} lacks {', '.join(lacking[:3])}{' and more' if len(lacking) > 3 else ''}, which was "
            "trained (the head always is). Save the repository again."
        )
    compare_shapes(repository.shapes, shapes, str(repository.weights), type(blank).__name__, may_lack=True)


def fill(model: nn.Module, repository: Repository) -> nn.Module:
    """Put the repository's adapter or delta, which has been checked, into the model."""
    if repository.adapter is not None:
        with explained(repository.weights):
            return PeftModel.from_pretrained(model, str(repository.folder), torch_device="cpu")
    if repository.delta is not None:
        with explained(repository.weights):
            model.load_state_dict(load_file(repository.weights), strict=False)
    return model
