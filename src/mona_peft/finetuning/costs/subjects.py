"""The methods whose costs are compared, each a model ready to train."""

from __future__ import annotations

import copy
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

from peft import PeftModel
from torch import nn

from mona_peft.blocks.head import is_head
from mona_peft.finetuning.methods import apply_method, freeze_all_but
from mona_peft.finetuning.models.architectures import architecture_of
from mona_peft.finetuning.models.backbones import find_backbone_module
from mona_peft.finetuning.models.building import head_paths
from mona_peft.tuners.mona import use_triton
from mona_peft.tuners.mona.reference import use_plain

from .config import DEFAULT_SUBJECTS, FLOOR

__all__ = ["DEFAULT_SUBJECTS", "FLOOR", "SUBJECTS", "StartUp", "prepare"]


def task_head(model: nn.Module) -> tuple[str, ...] | None:
    """Paths of neck and heads of a dense model; None for a classifier, whose head `apply_method` finds."""
    config = getattr(model, "config", None)
    return head_paths(model) if config is not None and architecture_of(config) is not None else None


def prepare_floor(model: nn.Module) -> nn.Module:
    """Train one bias, the patch embedding's: the gradient goes back through all of the frozen backbone.

    Neck and heads of a dense model train as well, as they do with every method.

    Raises:
        ValueError: If the model has no patch embedding with a bias.
    """
    head = task_head(model)
    backbone = model if head is None else find_backbone_module(model)[1]
    convolution = next((m for m in backbone.modules() if isinstance(m, nn.Conv2d)), None)
    if convolution is None or convolution.bias is None:
        raise ValueError(f"{type(model).__name__} has no patch embedding with a bias that could train.")
    freeze_all_but(model, lambda name: is_head(name, head or ()))
    convolution.bias.requires_grad_()
    return model


def _apply(model: nn.Module, name: str) -> nn.Module:
    return apply_method(model, name, task_head(model))


def _method(name: str) -> Callable[[nn.Module], nn.Module]:
    return lambda model: _apply(model, name)


def _mona_triton(model: nn.Module) -> nn.Module:
    device = next(model.parameters()).device
    if device.type != "cuda":
        raise ValueError(f"mona-triton measures kernels for a GPU, and the model is on {device}; add `--device cuda`.")
    return use_triton(_apply(model, "mona"))


SUBJECTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    FLOOR: prepare_floor,
    "fixed": _method("fixed"),
    "full": _method("full"),
    "lora": _method("lora"),
    "mona-plain": lambda model: use_plain(_apply(model, "mona")),
    "mona": _method("mona"),
    "mona-triton": _mona_triton,
}


class StartUp(NamedTuple):
    """Seconds it takes to start with an adapter.

    Args:
        inject (`float`): To put it into the model.
        save (`float`): To save it.
        load (`float`): To load it into the base model.
    """

    inject: float
    save: float
    load: float


def prepare(name: str, base: nn.Module) -> tuple[nn.Module, StartUp | None]:
    """Apply a method to a copy of the base model.

    Args:
        name (`str`): A key of `SUBJECTS`.
        base (`nn.Module`): Left as it is.

    Returns:
        `tuple[nn.Module, StartUp | None]`: The model, and how long it took where the method is an adapter.

    Raises:
        ValueError: If there is no such method.
    """
    if name not in SUBJECTS:
        raise ValueError(f"Unknown method {name!r}; choose among {list(SUBJECTS)}.")
    model, spare = copy.deepcopy(base), copy.deepcopy(base)
    start = time.perf_counter()
    model = SUBJECTS[name](model)
    inject = time.perf_counter() - start
    if not isinstance(model, PeftModel):
        return model, None
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns that a model made from a configuration has no name
        start = time.perf_counter()
        model.save_pretrained(folder)
        saved = time.perf_counter()
        PeftModel.from_pretrained(spare, folder)
        return model, StartUp(inject, saved - start, time.perf_counter() - saved)
