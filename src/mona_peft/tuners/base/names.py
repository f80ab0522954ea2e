"""Which names adapters may have.

PEFT leaves out of an adapter's file every key with another adapter's name among its parts, and goes by the parts of
keys elsewhere, too. So no adapter may be named like a part of a key.
"""

from __future__ import annotations

from collections.abc import Iterable

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from mona_peft.compat import AuxiliaryTrainingWrapper

#: Parts of keys inside this package's adapters, and in what PEFT wraps.
PARTS = frozenset(
    "model base_layer original_module modules_to_save weight bias running_mean running_var num_batches_tracked "
    "down up norm norm1 norm2 norm_scale input_scale depthwise 0 1 2 3 4 5 6 7 8 9 pointwise conv linear channels "
    "down_left down_right kernel up_left up_right scale shift tokens".split()
)


def check_names(model: nn.Module, names: Iterable[str], places: Iterable[str]) -> None:
    """Refuse names of adapters that are parts of keys.

    Args:
        model (`nn.Module`): The model, adapted or not.
        names (`Iterable[str]`): The adapters.
        places (`Iterable[str]`): Names of the modules that are to hold new ones.

    Raises:
        ValueError: If there is such a name; names it, and another that could be used.
    """
    taken = sorted({*names} & {*PARTS, *places, *_parts(model)})
    if taken:
        raise ValueError(
            f"An adapter cannot be named '{taken[0]}': parts of {type(model).__name__} or of its adapters have this "
            "name, and PEFT would leave them out of the files of all other adapters. Choose another name, such as "
            f"'adapter-{taken[0]}'."
        )


def _parts(model: nn.Module) -> set[str]:
    """The names of all modules, parameters and buffers, each inside its parent, without the names of adapters."""
    by_adapter = {
        id(getattr(layer, name, None))
        for layer in model.modules()
        if isinstance(layer, (BaseTunerLayer, AuxiliaryTrainingWrapper))
        for name in (*layer.adapter_layer_names, *layer.other_param_names)
    }
    return {
        name
        for module in model.modules()
        if id(module) not in by_adapter
        for names in (module._modules, module._parameters, module._buffers)
        for name in names
    }
