"""What the tuners that act on a block's residual stream have in common: their injection and removal.

A tuner layer is a child of the block it adapts. Its `ModuleDict`s, one for each place where it acts, are named with
the method's prefix and keyed by adapter name: keys read `...blocks.1.mona.mona_attention.<adapter>.down.weight`.
The child's own name does not contain the prefix: PEFT takes a module whose path has it for the inside of a layer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, Self

import torch
from peft import PeftConfig
from torch import Tensor, nn

from mona_peft.blocks.known import find_spec
from mona_peft.blocks.layout import TokenLayout
from mona_peft.blocks.modules import stream_type, stream_width
from mona_peft.blocks.source import LayoutSource
from mona_peft.blocks.spec import BlockSpec
from mona_peft.blocks.tap import check_tappable, tap, untap

from .config import BlockTunerConfig
from .matching import match_blocks, warn_of_frozen_head, warn_of_idle_exclusion
from .placing import adapter_dtype, execution_device
from .tuner import BlockTuner, BlockTunerLayer


class TappedLayer(BlockTunerLayer):
    """A tuner layer that is a child of a block and acts on its residual stream.

    Subclasses name their `ModuleDict`s in `adapter_layer_names`, fill them in `update_layer` and override the deltas;
    those with deltas of the norms' outputs set `reads_norms`.

    Args:
        dim (`int`): Channels of the residual stream.
        device (`torch.device`): Where new adapters are put.
        dtype (`torch.dtype`): Data type of new adapters.
        branches (`bool`): Whether the block has branches, attention and MLP, and not just a result to act on.
    """

    reads_norms = False

    def __init__(self, dim: int, device: torch.device, dtype: torch.dtype, branches: bool = True) -> None:
        super().__init__()
        self.dim = dim
        self.branches = branches
        self._device_and_dtype = (device, dtype)

    def update_layer(self, adapter_name: str, config: Any) -> None:
        """Create the modules of a new adapter.

        Args:
            adapter_name (`str`): Its name.
            config (`PeftConfig`): Its configuration.
        """
        raise TypeError(f"{type(self).__name__} does not say how its adapters are made.")

    def place(self, module: nn.Module) -> nn.Module:
        """Move a new module to the block's device and type; on the meta device it stays, waiting for weights."""
        device, dtype = self._device_and_dtype
        on_meta = any(p.is_meta for p in module.parameters())
        return module.to(dtype=dtype) if on_meta else module.to(device=device, dtype=dtype)

    def is_idle(self) -> bool:
        """Whether no adapter of this layer is active."""
        return self._disable_adapters or not any(True for _ in self._active_modules())

    def check_groups(self) -> None:
        """See `ResidualAdapter`; adapters treat rows apart."""

    def after_attention(self, hidden_states: Tensor, layout: TokenLayout) -> Tensor | None:
        """See `ResidualAdapter`."""
        return None

    def beside_mlp(self, hidden_states: Tensor, layout: TokenLayout) -> Tensor | None:
        """See `ResidualAdapter`."""
        return None

    def after_mlp(self, hidden_states: Tensor, layout: TokenLayout) -> Tensor | None:
        """See `ResidualAdapter`."""
        return None

    def beside_attention(self, normed: Tensor, layout: TokenLayout) -> Tensor | None:
        """See `ResidualAdapter`."""
        return None

    def beside_mlp_normed(self, normed: Tensor, layout: TokenLayout) -> Tensor | None:
        """See `ResidualAdapter`."""
        return None

    def stream_after_attention(
        self, hidden_states: Tensor, layout: TokenLayout
    ) -> tuple[Tensor, Tensor | None] | None:
        """See `ResidualAdapter`."""
        return None

    def stream_after_mlp(self, hidden_states: Tensor, extra: Tensor | None, layout: TokenLayout) -> Tensor | None:
        """See `ResidualAdapter`."""
        return None

    @property
    def weight(self) -> Tensor:
        """A tensor of the block's device and type, as PEFT asks of every layer."""
        device, dtype = self._device_and_dtype
        return torch.empty(0, device=device, dtype=dtype)

    @property
    def bias(self) -> None:  # type: ignore[override]
        """No bias: the layer wraps no layer of the base model."""
        return None

    def sum_deltas(self, adapters: nn.ModuleDict, hidden_states: Tensor, *layout: TokenLayout) -> Tensor | None:
        """The sum of what the active ones of `adapters` add, each computed in its own data type.

        Args:
            adapters (`nn.ModuleDict`): Modules with a method `delta(hidden_states, *layout)`, by adapter name.
            hidden_states (`Tensor`): What they read, `(B, N, C)` or `(B, H, W, C)`.
            *layout (`TokenLayout`): How its tokens are laid out, for modules that need it.
        """
        deltas = [
            self._delta(adapters[name], hidden_states, *layout) for name in self.active_adapters if name in adapters
        ]
        return functools.reduce(torch.add, deltas) if deltas else None

    def _delta(self, adapter: Any, hidden_states: Tensor, *layout: TokenLayout) -> Tensor:
        hidden_states_cast = self._cast_input_dtype(hidden_states, adapter_dtype(adapter, hidden_states.dtype))
        return adapter.delta(hidden_states_cast, *layout).to(hidden_states.dtype)

    def _active_modules(self) -> Iterable[nn.Module]:
        for layer_name in self.adapter_layer_names:
            modules = getattr(self, layer_name)
            for name in self.active_adapters:
                if name in modules:
                    yield modules[name]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Adapters added after `model.to(...)` go where the block went.
        probe = fn(self.weight)
        self._device_and_dtype = (probe.device, probe.dtype)
        return super()._apply(fn, recurse)


class TappedTuner(BlockTuner):
    """Base of the tuners of `TappedLayer`s; subclasses set `prefix`, `tuner_layer_cls` and `child_name`."""

    child_name: str
    _targets: dict[str, BlockSpec]
    _sources: dict[str, LayoutSource | None]

    def _prepare_model(self, peft_config: PeftConfig, model: nn.Module) -> None:
        assert isinstance(peft_config, BlockTunerConfig)
        # Everything that can be refused is refused here, before the model is touched.
        self._targets, self._excluded = match_blocks(model, peft_config)
        reads_norms = self.tuner_layer_cls.reads_norms  # type: ignore[attr-defined]
        for name, spec in self._targets.items():
            if not spec.entry and not self.acts_after_blocks(peft_config):
                raise ValueError(
                    f"Block '{name}' ({spec.block}) is convolutional: it has no attention and no MLP branch that "
                    f"{type(self).__name__} could act on with these settings. Choose Mona with a position 'mlp', "
                    "which stands for the block's result, or leave such blocks out with `exclude_modules`."
                )
        self._sources = {name: check_tappable(model, name, spec, reads_norms) for name, spec in self._targets.items()}
        warn_of_idle_exclusion(model, peft_config, self._excluded)
        warn_of_frozen_head(model, peft_config)

    def places(self) -> tuple[str, ...]:
        """See `BlockTuner`; the tuner layer is one as well."""
        return self.child_name, *super().places()

    def acts_after_blocks(self, config: Any) -> bool:
        """Whether a configuration asks for adapters that act on the results of blocks, as convolutional ones need."""
        return False

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Add an adapter to the blocks of `model`; see `BaseTuner.inject_adapter`."""
        if kwargs.get("state_dict") is not None:  # PEFT takes what precedes the prefix for the target's name
            inner = f".{self.child_name}.{self.prefix}"
            kwargs["state_dict"] = {k.replace(inner, f".{self.prefix}"): v for k, v in kwargs["state_dict"].items()}
        super().inject_adapter(model, adapter_name, *args, **kwargs)

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
        layer: Any = getattr(target, self.child_name, None)
        device, dtype = stream_type(target, spec)
        if device.type == "meta":  # accelerate keeps the weights elsewhere
            device = execution_device(target) or device
        if layer is None:
            layer = self.tuner_layer_cls(stream_width(target, spec), device, dtype, bool(spec.entry))  # type: ignore[call-arg]
            layer.train(target.training)
            target.add_module(self.child_name, layer)
        layer._device_and_dtype = device, dtype  # the block's weights may have been replaced since the layer was made
        layer.update_layer(adapter_name, peft_config)
        layer.set_adapter(self.active_adapters, inference_mode=peft_config.inference_mode)
        tap(self.model, current_key, spec, self.child_name, self._sources.pop(current_key, None))

    def _remove_layers(self) -> None:
        untap(self.model, self.child_name)
