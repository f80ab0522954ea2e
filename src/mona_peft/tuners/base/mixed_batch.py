"""Batches whose rows use adapters, and heads, of their own.

What the rows name is known to one thread alone: several may run one model, each with names of its own. So nothing of
it is kept in the model. The hooks on heads, which PEFT's wrappers of `modules_to_save` take the names from, stay once
they are there, and ask the thread.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence

import torch
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from mona_peft.blocks.rows import rows_choose_adapters
from mona_peft.compat import AuxiliaryTrainingWrapper

#: PEFT's name for a row that uses no adapter.
BASE = "__base__"


class UnknownRows(ValueError):
    """A module sees rows of which it is unknown which image they belong to."""


class _Thread(threading.local):
    names: list[str] | None = None


_thread = _Thread()
_registering = threading.Lock()


@contextlib.contextmanager
def rows_name_adapters(
    tuner: BaseTuner, names: Sequence[str], args: tuple, kwargs: Mapping[str, object]
) -> Iterator[None]:
    """Within this context each row of this thread's batch uses the adapter, and the head, named for it.

    Args:
        tuner (`BaseTuner`): The tuner of the adapters.
        names (`Sequence[str]`): A name an image, `"__base__"` for no adapter.
        args (`tuple`): Positional arguments of the model's call.
        kwargs (`Mapping`): Its keyword arguments.

    Raises:
        ValueError: If the model is training, a name is unknown, or the number of names is not that of the images.
    """
    check_adapter_names(tuner, names, args, kwargs)
    _watch_heads(tuner.model)
    previous, _thread.names = _thread.names, list(names)
    try:
        with rows_choose_adapters(names):
            yield
    finally:
        _thread.names = previous


def check_adapter_names(tuner: BaseTuner, names: Sequence[str], args: tuple, kwargs: Mapping[str, object]) -> None:
    """Refuse names that no adapter has, another number of names than of images, and training.

    Raises:
        ValueError: If one of these holds; names it.
    """
    if tuner.training:
        raise ValueError("adapter_names is for inference: call `model.eval()` first, or train one adapter at a time.")
    known = sorted(
        name
        for name, config in tuner.peft_config.items()
        if isinstance(tuner, PEFT_TYPE_TO_TUNER_MAPPING.get(config.peft_type, ()))  # type: ignore[call-overload]  # others may share the model
    )
    unknown = sorted(set(names) - set(known) - {BASE})
    if unknown:
        raise ValueError(f"adapter_names has {unknown}, but the adapters are {known} and '{BASE}'.")
    batch = count_images(args, kwargs)
    if len(names) != batch:
        raise ValueError(f"adapter_names has {len(names)} names for a batch of {batch} rows; pass one for each row.")


def count_images(args: tuple, kwargs: Mapping[str, object]) -> int:
    """How many images a model is called with: they are `pixel_values`, or the argument of the most dimensions.

    Raises:
        ValueError: If no argument holds images.
    """
    values = [kwargs["pixel_values"]] if "pixel_values" in kwargs else [*args, *kwargs.values()]
    tensors = [value for value in values if isinstance(value, Tensor) and value.dim()]
    if tensors:
        return len(max(tensors, key=Tensor.dim))
    for value in values:
        if isinstance(value, (list, tuple)) and value and all(isinstance(item, Tensor) for item in value):
            return len(value)
    raise ValueError("adapter_names needs one name for each image, but no argument of this call holds images.")


def row_groups(rows: int) -> list[tuple[list[str], Tensor]] | None:
    """The rows of a module's input, grouped by the adapters to use for them; None where the active ones are.

    A module inside a block may see several rows an image, its windows one after another.

    Args:
        rows (`int`): Rows that the module sees.

    Raises:
        UnknownRows: If they are not equally many for each image.
    """
    names = None if torch.compiler.is_compiling() else _thread.names
    if names is None:
        return None
    each, rest = divmod(rows, len(names))
    if rest or not each:
        raise UnknownRows(
            f"adapter_names cannot be used with this model: one of its adapted modules sees {rows} rows for "
            f"{len(names)} images, so which row belongs to which image is unknown. Call the model once for each "
            "adapter."
        )
    groups: dict[str, list[int]] = {}
    for image, name in enumerate(names):
        groups.setdefault(name, []).extend(range(image * each, (image + 1) * each))
    return [([] if name == BASE else [name], torch.tensor(group)) for name, group in groups.items()]


def _watch_heads(model: nn.Module) -> None:
    """Let the copies of modules that `modules_to_save` made be used row by row as well."""
    with _registering:
        for module in model.modules():
            if isinstance(module, AuxiliaryTrainingWrapper) and _name_rows not in module._forward_pre_hooks.values():
                module.register_forward_pre_hook(_name_rows, with_kwargs=True)


def _name_rows(
    module: AuxiliaryTrainingWrapper, args: tuple, kwargs: dict[str, object] | None = None
) -> tuple[tuple, dict[str, object]] | None:
    """Pre-hook of PEFT's wrappers: add the names of this thread's rows, if they have some."""
    names = None if torch.compiler.is_compiling() else _thread.names
    if names is None or kwargs is None:  # another thread is just registering the hook
        return None
    own = set(module._adapters)
    return args, kwargs | {"adapter_names": [name if name in own else BASE for name in names]}
