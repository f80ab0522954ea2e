"""Everything this package uses of the private interface of PEFT, in one place, and what its releases differ in.

Supported are PEFT 0.18 and later. In later releases a tuner translates the keys of its state dict itself; in older
ones `teach_key_names` puts the same translation into PEFT's functions, for this package's tuners and no others, so
that files are the same whatever release wrote them.
"""

from __future__ import annotations

import functools
import sys
import threading
from typing import Any

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, _ExcludedModule, check_target_module_exists
from peft.utils import save_and_load
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import Tensor, nn

__all__ = [
    "AuxiliaryTrainingWrapper",
    "CompatibleTuner",
    "ExcludedModule",
    "ModulesToSaveWrapper",
    "check_target_module_exists",
]

ExcludedModule = _ExcludedModule

TUNERS_TRANSLATE_KEYS = hasattr(BaseTuner, "_remap_adapter_state_dict_for_load")


class CompatibleTuner(BaseTuner):
    """`BaseTuner`, the same under every release; its adapters lie in modules `<prefix><place>.<adapter name>`."""

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        head, separator, tail = key.partition(f".{cls.prefix}")
        if not separator:
            return super()._remove_adapter_name_from_key(key, adapter_name) if TUNERS_TRANSLATE_KEYS else key
        place, _, rest = tail.partition(".")
        return f"{head}{separator}{place}.{rest.removeprefix(adapter_name + '.')}"

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        if TUNERS_TRANSLATE_KEYS:
            return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        return {cls._insert_adapter_name(key, adapter_name): tensor for key, tensor in state_dict.items()}

    @classmethod
    def _insert_adapter_name(cls, key: str, adapter_name: str) -> str:
        head, separator, tail = key.partition(f".{cls.prefix}")
        place, _, rest = tail.partition(".")
        return f"{head}{separator}{place}.{adapter_name}.{rest}" if separator else key

    def _get_module_names_tied_with_embedding(self) -> list[str]:
        try:
            return super()._get_module_names_tied_with_embedding()
        except NotImplementedError:  # some vision models of transformers do not say what their input embeddings are
            return []

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:
        model = super()._unload_and_optionally_merge(*args, **kwargs)
        if not TUNERS_TRANSLATE_KEYS:
            self.model.__dict__.pop("peft_config", None)  # later releases leave nothing behind
        return model


def tuner_of(model: nn.Module, adapter_name: str) -> type[CompatibleTuner] | None:
    """The class of the tuner that an adapter of `model` belongs to, if it is one of this package."""
    config: Any = model.peft_config[adapter_name]  # type: ignore[index]
    tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(config.peft_type)
    return tuner if isinstance(tuner, type) and issubclass(tuner, CompatibleTuner) else None


def teach_key_names() -> None:
    """Let older releases of PEFT save and load this package's adapters under the keys that later ones use."""
    loading: Any = threading.local()
    saver, loader = save_and_load.get_peft_model_state_dict, save_and_load.set_peft_model_state_dict
    insert = save_and_load._insert_adapter_name_into_state_dict

    @functools.wraps(saver)
    def get_peft_model_state_dict(
        model: nn.Module, state_dict: Any = None, adapter_name: str = "default", *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        entries = saver(model, state_dict, adapter_name, *args, **kwargs)
        tuner = tuner_of(getattr(model, "_orig_mod", model), adapter_name)
        others = set(getattr(model, "peft_config", {})) - {adapter_name}
        return entries if tuner is None else _entries_of(tuner, entries, adapter_name, others)

    @functools.wraps(loader)
    def set_peft_model_state_dict(
        model: nn.Module, peft_model_state_dict: Any, adapter_name: str = "default", *args: Any, **kwargs: Any
    ) -> Any:
        loading.target = (tuner_of(model, adapter_name), model, adapter_name)
        try:
            return loader(model, peft_model_state_dict, adapter_name, *args, **kwargs)
        finally:
            loading.target = None

    @functools.wraps(insert)
    def insert_adapter_name(state_dict: Any, adapter_name: str, parameter_prefix: str) -> dict[str, Tensor]:
        tuner, model, name = getattr(loading, "target", None) or (None, None, None)
        if tuner is None or model is None:
            return insert(state_dict, adapter_name, parameter_prefix)
        return tuner._remap_adapter_state_dict_for_load(model, model.peft_config[name], name, state_dict)

    _replace(saver, get_peft_model_state_dict)
    _replace(loader, set_peft_model_state_dict)
    _replace(insert, insert_adapter_name)


def _entries_of(
    tuner: type[CompatibleTuner], entries: dict[str, Tensor], adapter_name: str, others: set[str]
) -> dict[str, Tensor]:
    """The entries of one adapter without its name.

    Older releases give those of all adapters of the method, with the name gone from some keys already.
    """
    mine = {}
    for key, tensor in entries.items():
        _, separator, tail = key.partition(f".{tuner.prefix}")
        if not separator or tail.partition(".")[2].partition(".")[0] not in others:
            mine[tuner._remove_adapter_name_from_key(key, adapter_name)] = tensor
    return mine


def _replace(original: Any, replacement: Any) -> None:
    """Put a function in the place of another one in every module of PEFT that has imported it."""
    modules = [module for path, module in sys.modules.items() if path == "peft" or path.startswith("peft.")]
    name = original.__name__
    for module in modules:
        if vars(module).get(name) is original:
            setattr(module, name, replacement)


if not TUNERS_TRANSLATE_KEYS:
    teach_key_names()
