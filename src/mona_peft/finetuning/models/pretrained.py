"""Pretrained weights into a model, with a word about everything that does not fit."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import AutoModelForImageClassification, PretrainedConfig, PreTrainedModel

from mona_peft.blocks.head import find_head

LOADING_LOGGER = "transformers.modeling_utils"


class _Quiet(logging.Filter):
    """Drops the load reports of the threads that are inside [`quiet_loading`]; other threads' pass.

    It is on the logger only while a thread is inside, so that nothing global is left changed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.inside: list[int] = []

    def filter(self, record: logging.LogRecord) -> bool:
        return threading.get_ident() not in self.inside

    def enter(self) -> None:
        with self.lock:
            if not self.inside:
                logging.getLogger(LOADING_LOGGER).addFilter(self)
            self.inside.append(threading.get_ident())

    def leave(self) -> None:
        with self.lock:
            self.inside.remove(threading.get_ident())
            if not self.inside:
                logging.getLogger(LOADING_LOGGER).removeFilter(self)


_QUIET = _Quiet()


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Leave out transformers' report on missing and unexpected weights, in this thread only."""
    _QUIET.enter()
    try:
        yield
    finally:
        _QUIET.leave()


def _head(model: nn.Module) -> Sequence[str]:
    return find_head(model) or ()


def load_fitting(
    model_class: type[PreTrainedModel] | type[AutoModelForImageClassification],
    name_or_path: str,
    config: PretrainedConfig,
    may_differ: Callable[[nn.Module], Sequence[str]] = _head,
    **options: Any,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load pretrained weights of which everything must fit but some modules.

    Norms that the files lack may be missing, too: they start at ones and zeros wherever they are made, so the
    model is the one that was trained (those of masked image models lack their last norm).

    Args:
        model_class (`type`): What to load.
        name_or_path (`str`): Hub id or folder.
        config (`PretrainedConfig`): Of the model.
        may_differ (`Callable`): Gives the paths of the modules of the loaded model that may be missing or of another
            shape; those of its head if left out.
        **options: Of `from_pretrained`.

    Returns:
        The model and transformers' loading info.

    Raises:
        ValueError: If other weights are missing or have other shapes, or the files have more blocks than the
            model.
    """
    with quiet_loading():
        loaded: Any = model_class.from_pretrained(  # its type does not know of the loading info
            name_or_path, config=config, ignore_mismatched_sizes=True, output_loading_info=True, **options
        )
    model, info = loaded
    problems = misfits(model, info, tuple(may_differ(model)))
    if problems:
        raise ValueError(
            f"{name_or_path} does not fit {type(model).__name__} as its configuration describes it: "
            f"{'; '.join(problems)}. Give the base model that an adapter was trained on, or files that "
            "save_pretrained wrote."
        )
    return model, info


def misfits(model: nn.Module, info: dict[str, Any], may_differ: Sequence[str]) -> list[str]:
    """What pretrained weights lack, have in other shapes, or have too many of, in words.

    Args:
        model (`nn.Module`): The loaded model.
        info (`dict[str, Any]`): Transformers' loading info.
        may_differ (`Sequence[str]`): Paths of modules that may differ.
    """

    def counts(name: str) -> bool:
        return not any(name == path or name.startswith(f"{path}.") for path in may_differ)

    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    missing = [
        name
        for name in sorted(info["missing_keys"])
        if counts(name) and name in tensors and tensors[name].is_floating_point() and not _is_norm(model, name)
    ]
    mismatched = [entry for entry in sorted(info["mismatched_keys"], key=lambda entry: entry[0]) if counts(entry[0])]
    shapes = [f"{name} is {list(found)} in place of {list(wanted)}" for name, found, wanted in mismatched]
    beyond = [name for name in sorted(info["unexpected_keys"]) if _is_beyond(model, name)]
    return [
        f"{text} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}".strip()
        for text, names in (("it lacks", missing), ("", shapes), ("the model has no", beyond))
        if names
    ]


def _is_norm(model: nn.Module, name: str) -> bool:
    """Whether a tensor is the scale or shift of a norm without running statistics."""
    return isinstance(model.get_submodule(name.rpartition(".")[0]), nn.LayerNorm | nn.GroupNorm)


def _is_beyond(model: nn.Module, name: str) -> bool:
    """Whether an unexpected tensor belongs to a block beyond the last one of a list that the model has.

    Whole modules that the model does not have (a pooler, a decoder, another head) are no reason to refuse: they take
    no part. Weights of bare models lack the name of the backbone before theirs.
    """
    prefix = getattr(model, "base_model_prefix", "")
    modules = dict(model.named_modules())
    words = name.split(".")
    for end, word in enumerate(words):
        path = ".".join(words[:end])
        for candidate in (path, f"{prefix}.{path}"):
            blocks = modules.get(candidate)
            if word.isdigit() and isinstance(blocks, nn.ModuleList | nn.Sequential) and int(word) >= len(blocks):
                return True
    return False
