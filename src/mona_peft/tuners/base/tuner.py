"""What all tuners of this package have in common: they adapt whole blocks, load what fits and are never merged."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn

from mona_peft.compat import CompatibleTuner, ExcludedModule

from .unloading import unload


class BlockTunerLayer(nn.Module, BaseTunerLayer):
    """Base of the tuner layers: one `ModuleDict`, keyed by adapter name, for each of `adapter_layer_names`."""

    def __init__(self) -> None:
        super().__init__()
        self._disable_adapters = False
        self._active_adapter: str | list[str] = []
        self.merged_adapters: list[str] = []
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ModuleDict())

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

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict) -> PeftConfig:
        return peft_config  # the blocks are found in the model, `target_modules=None` stays as the user gave it

    def _check_target_module_exists(self, peft_config: PeftConfig, key: str) -> Any:  # type: ignore[override]
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
        refuse_misfits(model, adapter_name, remapped)
        return remapped


def refuse_misfits(model: nn.Module, adapter_name: str, state_dict: dict[str, Tensor]) -> None:
    """Refuse weights whose shapes differ from the model's, and leave the model without the adapter they were for.

    Raises:
        ValueError: With the first of the shapes that differ.
    """
    own = model.state_dict()
    misfits = [
        f"{key}: the file has {tuple(tensor.shape)}, the model {tuple(own[key].shape)}"
        for key, tensor in state_dict.items()
        if key in own and own[key].shape != tensor.shape
    ]
    if misfits:
        forget_adapter(model, adapter_name)
        more = [f"and {len(misfits) - 5} more"] if len(misfits) > 5 else []
        raise ValueError(
            f"The weights for adapter '{adapter_name}' do not fit the model; it was left without the adapter. "
            "Load them into the base model they were trained on, with their own configuration.\n  "
            + "\n  ".join(misfits[:5] + more)
        )


def forget_adapter(model: nn.Module, adapter_name: str) -> None:
    """Remove an adapter that could not be filled; with the last one gone the base model is as it was."""
    base = getattr(model, "base_model", model)
    if isinstance(base, BaseTuner):
        if set(base.peft_config) == {adapter_name}:
            base.unload()
        else:
            base.delete_adapter(adapter_name)


def merge_refusal(name: str) -> str:
    """The message for every attempt to merge."""
    return (
        f"{name} cannot be merged: its adapters are not linear, so no change of the base weights equals them. Use "
        "`unload()` for the base model, and `torch.export` or ONNX export for one file that holds both."
    )
