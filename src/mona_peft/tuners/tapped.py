"""What the tuners that act on a block's residual stream have in common: matching, injection, loading, unloading.

A tuner layer is a child of the block it adapts. Its `ModuleDict`s, one for each place where it acts, are named with the
method's prefix and keyed by adapter name, so that keys read `...blocks.1.mona.mona_attention.<adapter>.down.weight`.
The child's own name does not contain the prefix: PEFT takes a module whose path contains it for the inside of a layer.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn

from ..backbones import BlockSpec, find_blocks, find_spec, head_modules, known_block_classes, stream_type, stream_width
from ..compat import AuxiliaryTrainingWrapper, ExcludedModule, check_target_module_exists
from ..residual import (
    TappedBlock,
    TokenLayout,
    check_tappable,
    restore_embeddings,
    tap,
    tolerate_tuple_embeddings,
    untap,
)


class TappedLayer(nn.Module, BaseTunerLayer):
    """A tuner layer that is a child of a block and acts on its residual stream.

    Subclasses name their `ModuleDict`s in `adapter_layer_names`, fill them in `update_layer` and override the deltas.

    Args:
        dim (`int`): Channels of the residual stream.
        device (`torch.device`): Where new adapters are put.
        dtype (`torch.dtype`): Data type of new adapters.
    """

    def __init__(self, dim: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.dim = dim
        self._device_and_dtype = (device, dtype)
        self._disable_adapters = False
        self._active_adapter: str | list[str] = []
        self.merged_adapters: list[str] = []
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ModuleDict())

    def update_layer(self, adapter_name: str, config: Any) -> None:
        """Create the modules of a new adapter.

        Args:
            adapter_name (`str`): Its name.
            config (`PeftConfig`): Its configuration.
        """
        raise TypeError(f"{type(self).__name__} does not say how its adapters are made.")

    def place(self, module: nn.Module) -> nn.Module:
        """Move a new module to the block's device and type; one on the meta device stays there, waiting for weights."""
        device, dtype = self._device_and_dtype
        on_meta = any(p.is_meta for p in module.parameters())
        return module.to(dtype=dtype) if on_meta else module.to(device=device, dtype=dtype)

    def is_idle(self) -> bool:
        """Whether no adapter of this layer is active."""
        return self._disable_adapters or not any(True for _ in self._active_modules())

    def entry_delta(self, hidden_states: Tensor, layout: TokenLayout) -> Tensor | None:
        """See `ResidualAdapter`."""
        return None

    def parallel_delta(self, hidden_states: Tensor, layout: TokenLayout) -> Tensor | None:
        """See `ResidualAdapter`."""
        return None

    def exit_delta(self, hidden_states: Tensor, layout: TokenLayout) -> Tensor | None:
        """See `ResidualAdapter`."""
        return None

    def entry_stream(self, hidden_states: Tensor, layout: TokenLayout) -> tuple[Tensor, Tensor] | None:
        """See `ResidualAdapter`."""
        return None

    def exit_stream(self, hidden_states: Tensor, extra: Tensor | None, layout: TokenLayout) -> Tensor | None:
        """See `ResidualAdapter`."""
        return None

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse: see `TappedTuner.merge_and_unload`."""
        raise ValueError(merge_refusal(type(self).__name__))

    def unmerge(self) -> None:
        """Nothing is ever merged."""

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """No: the method adds no difference of weights."""
        return False

    @property
    def weight(self) -> Tensor:
        """A tensor of the block's device and type, as PEFT asks of every layer."""
        device, dtype = self._device_and_dtype
        return torch.empty(0, device=device, dtype=dtype)

    @property
    def bias(self) -> None:
        """No bias: the layer wraps no layer of the base model."""
        return None

    def _active_modules(self) -> Iterable[nn.Module]:
        for layer_name in self.adapter_layer_names:
            modules = getattr(self, layer_name)
            for name in self.active_adapters:
                if name in modules:
                    yield modules[name]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        # Adapters added after `model.to(...)` go where the block went.
        probe = fn(self.weight)
        self._device_and_dtype = (probe.device, probe.dtype)
        return super()._apply(fn, recurse)


class TappedTuner(BaseTuner):
    """Base of the tuners whose layers are `TappedLayer`s; subclasses set `prefix`, `tuner_layer_cls` and `child_name`."""

    target_module_mapping: dict[str, list[str]] = {}
    child_name: str

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict) -> PeftConfig:
        return peft_config  # the blocks are found in the model, `target_modules=None` stays as the user gave it

    def _prepare_model(self, peft_config: PeftConfig, model: nn.Module) -> None:
        # Everything that can be refused is refused here, before the model is touched.
        self._targets, self._excluded = match_blocks(model, peft_config)
        for name, spec in self._targets.items():
            check_tappable(model, name, spec)
        warn_of_frozen_head(model, peft_config)

    def _check_target_module_exists(self, peft_config: PeftConfig, key: str) -> Any:  # type: ignore[override]
        return ExcludedModule() if key in self._excluded else key in self._targets

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Add an adapter to the blocks of `model`; see `BaseTuner.inject_adapter`."""
        if kwargs.get("state_dict") is not None:  # PEFT takes what precedes the prefix for the target's name
            inner = f".{self.child_name}.{self.prefix}"
            kwargs["state_dict"] = {k.replace(inner, f".{self.prefix}"): v for k, v in kwargs["state_dict"].items()}
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        tolerate_tuple_embeddings(model)

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        spec = self._targets.get(current_key) or find_spec(target)
        assert spec is not None
        layer = getattr(target, self.child_name, None)
        if layer is None:
            device, dtype = stream_type(target, spec)
            layer = self.tuner_layer_cls(stream_width(target, spec), device, dtype)  # type: ignore[call-arg]
            layer.train(target.training)
            target.add_module(self.child_name, layer)
        layer.update_layer(adapter_name, peft_config)
        layer.set_adapter(self.active_adapters, inference_mode=peft_config.inference_mode)
        tap(self.model, current_key, spec, self.child_name)

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        if merge:
            raise ValueError(merge_refusal(type(self).__name__))
        model = super()._unload_and_optionally_merge(merge=False, progressbar=progressbar)
        remove_layers(self.model, self.child_name)
        return model

    def _check_merge_allowed(self) -> None:
        raise ValueError(merge_refusal(type(self).__name__))

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        head, separator, tail = key.partition(f".{cls.child_name}.{cls.prefix}")
        if not separator:
            return super()._remove_adapter_name_from_key(key, adapter_name)
        place, _, rest = tail.partition(".")
        return f"{head}{separator}{place}.{rest.removeprefix(adapter_name + '.')}"

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        remapped = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        refuse_misfits(model, adapter_name, remapped)
        return remapped


def match_blocks(model: nn.Module, config: Any) -> tuple[dict[str, BlockSpec], set[str]]:
    """Find the blocks a configuration means.

    Args:
        model (`nn.Module`): The model to adapt.
        config (`PeftConfig`): With `target_modules`, `exclude_modules`, `layers_to_transform`, `layers_pattern`.

    Returns:
        The blocks by name with their row of the table, from the input to the output, and the names left out.

    Raises:
        ValueError: If there is no known block, or a name matches something else, or an index is out of range.
    """
    by_name = copy.copy(config)
    by_name.layers_to_transform = by_name.layers_pattern = None
    blocks = find_blocks(model, getattr(config, "block_specs", None))
    if config.target_modules is None:
        by_name.target_modules = list(blocks)
    if not blocks:
        raise ValueError(
            f"{type(model).__name__} has no block that can be adapted. The known blocks are {known_block_classes()}."
        )
    matched: dict[str, BlockSpec] = {}
    excluded: set[str] = set()
    for name, module in model.named_modules():
        result = check_target_module_exists(by_name, name) if name else False
        if isinstance(result, ExcludedModule):
            excluded.add(name)
        elif result and name not in blocks:
            raise ValueError(
                f"target_modules={config.target_modules!r} matches '{name}' ({type(module).__name__}), which is not a "
                f"block that can be adapted. Name blocks, of the classes {known_block_classes()}, for example "
                f"'{next(iter(blocks))}'."
            )
        elif result:
            matched[name] = blocks[name]
    if not matched:
        raise ValueError(
            f"target_modules={config.target_modules!r} (exclude_modules={config.exclude_modules!r}, "
            f"modules_to_save={config.modules_to_save!r}) leaves no block to adapt. The model's blocks are "
            f"{list(blocks)}."
        )
    return _choose_layers(matched, config), excluded


def _choose_layers(blocks: dict[str, BlockSpec], config: Any) -> dict[str, BlockSpec]:
    """Keep the blocks that `layers_to_transform` counts, among those in containers that `layers_pattern` names."""
    if config.layers_to_transform is None:
        return blocks
    names = list(blocks)
    if config.layers_pattern:
        patterns = [config.layers_pattern] if isinstance(config.layers_pattern, str) else list(config.layers_pattern)
        names = [name for name in names if name.rpartition(".")[0].rpartition(".")[2] in patterns]
        if not names:
            raise ValueError(f"layers_pattern={config.layers_pattern!r} names no container of the blocks {list(blocks)}.")
    indices = config.layers_to_transform
    indices = [indices] if isinstance(indices, int) else list(indices)
    beyond = [index for index in indices if not -len(names) <= index < len(names)]
    if beyond or not indices:
        raise ValueError(
            f"layers_to_transform={config.layers_to_transform!r} must hold indices between {-len(names)} and "
            f"{len(names) - 1}: the backbone has {len(names)} blocks that match."
        )
    chosen = {names[index] for index in indices}
    return {name: spec for name, spec in blocks.items() if name in chosen}


def warn_of_frozen_head(model: nn.Module, config: Any) -> None:
    """Warn when a head will be neither trained nor saved: the commonest mistake with PEFT."""
    saved = config.modules_to_save or []
    frozen = [
        name
        for name in head_modules(model)
        if name not in saved and not isinstance(model.get_submodule(name), AuxiliaryTrainingWrapper)
    ]
    if frozen and not config.inference_mode:
        warnings.warn(
            f"The head of {type(model).__name__} ({', '.join(frozen)}) will be frozen and will not be saved with the "
            f"adapter. If it is new, or was trained on other classes, pass modules_to_save={frozen}.",
            stacklevel=2,
        )


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


def remove_layers(model: nn.Module, child_name: str) -> None:
    """Take the tuner layers of one method off their blocks."""
    blocks = [m for m in model.modules() if isinstance(m, TappedBlock) and child_name in m._tap.adapters]
    for block in blocks:
        untap(block, child_name)  # type: ignore[arg-type]
    if not any(isinstance(module, TappedBlock) for module in model.modules()):
        restore_embeddings(model)


def merge_refusal(name: str) -> str:
    """The message for every attempt to merge."""
    return (
        f"{name} cannot be merged: its adapters are not linear, so no change of the base weights equals them. Use "
        "`unload()` for the base model, and `torch.export` or ONNX export for one file that holds both."
    )
