"""What all tuners of this package have in common: they adapt whole blocks, load what fits and are never merged."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from mona_peft.blocks.checkpointing import tolerate_tuple_embeddings
from mona_peft.blocks.rows import chosen_adapters
from mona_peft.compat import CompatibleTuner, ExcludedModule

from .config import BlockTunerConfig
from .loading import before_next_load, check_keys, check_shapes, own_entries
from .mixed_batch import rows_name_adapters
from .names import check_names
from .saved import check_saved, wrap_saved
from .statistics import hold_frozen_statistics
from .unloading import unload


class BlockTunerLayer(nn.Module, BaseTunerLayer):
    """Base of the tuner layers: one `ModuleDict`, keyed by adapter name, for each of `adapter_layer_names`."""

    def __init__(self) -> None:
        super().__init__()
        self._disable_adapters = False
        self._active_adapter: str | list[str] = []
        self.merged_adapters: list[str] = []
        self.cast_input_dtype_enabled = True
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ModuleDict())

    @property
    def active_adapters(self) -> list[str]:
        """The active adapters, or those that the rows of this thread's batch name."""
        chosen = chosen_adapters()
        if chosen is not None:
            return chosen
        # torch.compile takes `super().active_adapters` for the property itself
        return [self._active_adapter] if isinstance(self._active_adapter, str) else self._active_adapter

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device | None, None]:
        # PEFT moves adapters to both once they are loaded, and would round those that are kept in 32 bits
        device, _ = super()._get_base_layer_device_and_dtype(base_layer)
        return device, None

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse: see `BlockTuner.merge_and_unload`."""
        raise ValueError(merge_refusal(type(self).__name__))

    def unmerge(self) -> None:
        """Nothing is ever merged."""

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """No: the method adds no difference of weights."""
        return False


class BlockTuner(CompatibleTuner):
    """Base of the tuners.

    Subclasses find the modules to adapt in `_prepare_model` and say how in `_create_and_replace`. The parameters of an
    adapter are in a `ModuleDict` whose name begins with the method's prefix.
    """

    target_module_mapping: dict[str, list[str]] = {}
    _targets: Collection[str]
    _excluded: set[str]
    _injected: BlockTunerConfig  # the configuration of the adapter that is being injected, a copy
    #: Adapters made for weights that did not come yet, and how often their tensors had been changed by then.
    _awaiting: Mapping[str, int] = {}

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Add an adapter to `model`; see `BaseTuner.inject_adapter`."""
        config = self.peft_config[adapter_name]
        assert isinstance(config, BlockTunerConfig)
        self._check_names(model, adapter_name)
        check_saved(model, config.modules_to_save)
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        wrap_saved(model, config, adapter_name, activate=adapter_name in self.active_adapters)
        if config.inference_mode or config.read_from_file:
            self._awaiting = {**self._awaiting, adapter_name: self._changes(adapter_name)}
        hold_frozen_statistics(model)
        tolerate_tuple_embeddings(model)

    def places(self) -> tuple[str, ...]:
        """Names of the modules that hold adapters, as they are in the keys of files."""
        return self.tuner_layer_cls.adapter_layer_names

    def _check_names(self, model: nn.Module, adapter_name: str) -> None:
        try:
            check_names(model, self.peft_config, self.places())
        except ValueError:
            del self.peft_config[adapter_name]  # other methods on the model share it
            if not self.peft_config and hasattr(model, "_hf_peft_config_loaded"):
                # transformers would take the next adapter for a second one
                model._hf_peft_config_loaded = False  # type: ignore[assignment]
            raise

    @contextlib.contextmanager
    def _enable_peft_forward_hooks(
        self, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any
    ) -> Iterator[None]:
        """Within this context each row of a batch uses the adapter, and the head, named for it."""
        if adapter_names is None:
            yield
            return
        with rows_name_adapters(self, adapter_names, args, kwargs):
            yield

    def train(self, mode: bool = True) -> BlockTuner:
        """Switch training on or off; batch norms that have come since the last adapter keep their statistics too."""
        hold_frozen_statistics(self)
        super().train(mode)
        return self

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict) -> PeftConfig:
        # The blocks are found in the model, `target_modules=None` stays as the user gave it.
        assert isinstance(peft_config, BlockTunerConfig)
        self._injected = copy.copy(peft_config)
        return self._injected

    def _mark_only_adapters_as_trainable(self, model: nn.Module) -> None:
        super()._mark_only_adapters_as_trainable(model)
        self._injected.modules_to_save = None  # PEFT would go on to wrap modules inside adapters; see `wrap_saved`

    def _check_target_module_exists(self, peft_config: PeftConfig, key: str) -> bool | ExcludedModule:  # type: ignore[override]
        return ExcludedModule() if key in self._excluded else key in self._targets

    def _check_merge_allowed(self) -> None:
        raise ValueError(merge_refusal(type(self).__name__))

    def _remove_layers(self) -> None:
        """Take this tuner's layers off the model."""
        raise TypeError(f"{type(self).__name__} does not say how its layers are removed.")

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> Any:
        if merge:
            self._check_merge_allowed()
        return unload(self, self._remove_layers, lambda layer: isinstance(layer, BlockTunerLayer))

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        remapped = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        own = own_entries(model, cls.tuner_layer_cls.adapter_layer_names, adapter_name)
        with forgotten_on_failure(model, adapter_name):
            check_keys(own, remapped, adapter_name)
        for key, tensor in own.items():
            if tensor.is_meta and key in remapped:  # what takes its place is to have its type
                remapped[key] = remapped[key].to(tensor.dtype)

        def check(fitting: Mapping[str, Tensor]) -> None:
            with forgotten_on_failure(model, adapter_name, done=True):
                check_shapes(own, fitting, adapter_name)

        before_next_load(model, check)
        return remapped

    def _changes(self, adapter_name: str) -> int:
        entries = own_entries(self.model, self.tuner_layer_cls.adapter_layer_names, adapter_name)
        return sum(tensor._version for tensor in entries.values() if not tensor.is_inference())


@contextlib.contextmanager
def forgotten_on_failure(model: nn.Module, adapter_name: str, done: bool = False) -> Iterator[None]:
    """Leave `model` without an adapter that was made for weights which turn out wrong, and has not been used since.

    Args:
        model (`nn.Module`): A `PeftModel`; in others an adapter is made by the caller and stays.
        adapter_name (`str`): The adapter to be filled.
        done (`bool`): Whether the adapter will have its weights after this.
    """
    tuner = getattr(model, "base_model", None)
    if not isinstance(tuner, BlockTuner):
        yield
        return
    try:
        yield
    except ValueError:
        if tuner._awaiting.get(adapter_name) == tuner._changes(adapter_name):
            forget_adapter(tuner, adapter_name)
        raise
    if done:
        tuner._awaiting = {name: count for name, count in tuner._awaiting.items() if name != adapter_name}


def forget_adapter(tuner: BlockTuner, adapter_name: str) -> None:
    """Remove an adapter; with the last one gone the base model is as it was."""
    if set(tuner.peft_config) == {adapter_name}:
        tuner.unload()
    else:
        tuner.delete_adapter(adapter_name)


def merge_refusal(name: str) -> str:
    """The message for every attempt to merge."""
    return (
        f"{name} cannot be merged: its adapters are not linear, so no change of the base weights equals them. Use "
        "`unload()` for the base model, and `torch.export` or ONNX export for one file that holds both."
    )
