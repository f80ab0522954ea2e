"""Batches whose rows use adapters, and heads, of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from mona_peft.compat import AuxiliaryTrainingWrapper

#: PEFT's name for a row that uses no adapter.
BASE = "__base__"


def check_adapter_names(tuner: BaseTuner, names: Sequence[str]) -> None:
    """Refuse adapter names that no adapter has, and training.

    Raises:
        ValueError: Naming what is wrong.
    """
    if tuner.training:
        raise ValueError("adapter_names is for inference: call `model.eval()` first, or train one adapter at a time.")
    unknown = sorted(set(names) - set(tuner.peft_config) - {BASE})
    if unknown:
        known = sorted(tuner.peft_config)
        raise ValueError(f"adapter_names has {unknown}, but the adapters are {known} and '{BASE}'.")


@contextlib.contextmanager
def heads_choose_adapters(model: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Let the copies of a head that `modules_to_save` made be used row by row as well."""

    def add_names(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, kwargs | {"adapter_names": list(names)}

    wrappers = [module for module in model.modules() if isinstance(module, AuxiliaryTrainingWrapper)]
    handles = [wrapper.register_forward_pre_hook(add_names, with_kwargs=True) for wrapper in wrappers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
