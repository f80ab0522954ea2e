"""Taking a method's adapters off a model that may have other methods' adapters as well.

PEFT's own way takes every layer with a `base_layer` for the tuner's. Here each tuner removes its own layers, and what
PEFT left on the model for it; with no other adapter there the model is as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn

from mona_peft.blocks.checkpointing import restore_embeddings
from mona_peft.compat import AuxiliaryTrainingWrapper

from .statistics import release_frozen_statistics

HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)


def unload(
    tuner: BaseTuner, remove_layers: Callable[[], None], is_ours: Callable[[BaseTunerLayer], bool]
) -> nn.Module:
    """Remove the adapters of `tuner` from its model, and give the model back.

    The copies of `modules_to_save` go with them, except those under the name of an adapter that another method has on
    the model: the two adapters share them.

    Args:
        tuner (`BaseTuner`): The tuner.
        remove_layers (`Callable`): Takes its layers off.
        is_ours (`Callable`): Whether a tuner layer is one of this package.
    """
    model = tuner.model
    remove_layers()
    others = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    own = {
        name
        for name, config in tuner.peft_config.items()
        if isinstance(tuner, PEFT_TYPE_TO_TUNER_MAPPING.get(config.peft_type, ()))  # type: ignore[call-overload]
    }
    shared = {name for layer in others for name in layer._all_available_adapter_names()}
    _restore_saved(model, own - shared, everything=not others)
    _forget_configs(tuner, own - shared, everything=not others)
    if not any(is_ours(layer) for layer in others):
        restore_embeddings(model)
        release_frozen_statistics(model)
    return model


def hand_over_hooks(layer: nn.Module, successor: nn.Module) -> None:
    """Let the hooks that others registered on `layer` be those of the module that takes its place.

    The dictionaries go over as they are, so that the handles of the hooks stay valid.
    """
    for name in HOOKS:
        hooks = getattr(layer, name)
        if hooks:
            hooks.update(getattr(successor, name))
            setattr(successor, name, hooks)


def _restore_saved(model: nn.Module, names: set[str], everything: bool) -> None:
    for parent in list(model.modules()):
        for child_name, child in list(parent.named_children()):
            if isinstance(child, AuxiliaryTrainingWrapper) and (everything or set(child._adapters) <= names):
                restored = child.unload_and_optionally_merge_module(merge=False, safe_merge=False, adapter_names=None)
                setattr(parent, child_name, restored)


def _forget_configs(tuner: BaseTuner, names: set[str], everything: bool) -> None:
    """Methods on one model share the configurations that PEFT keeps on it."""
    model: Any = tuner.model
    if everything:
        model.__dict__.pop("peft_config", None)
    elif getattr(model, "peft_config", None) is not None:
        model.peft_config = {name: config for name, config in model.peft_config.items() if name not in names}
