"""What the tuners that change the output of single modules have in common.

A tuner layer takes the place of the module and holds it as `base_layer`, as PEFT's own layers do. What its adapters
add is computed from the module's output h, `h + sum_i delta_i(h)`, so several active adapters add up. Keys read
`...o_proj.<method>_adapter.<adapter>.down.weight`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from peft import PeftConfig
from torch import Tensor, nn

from mona_peft.blocks.checkpointing import (
    Handle,
    outermost_checkpointed,
    register_before_checkpoint,
)
from mona_peft.blocks.rows import choose_adapters
from mona_peft.blocks.tap import hand_over_taps

from .branches import output_modules, refuse_uncalled
from .config import BlockTunerConfig
from .matching import match_blocks, refuse_kept, warn_of_frozen_head, warn_of_idle_exclusion
from .mixed_batch import row_groups
from .placing import adapter_dtype, place_of
from .tuner import BlockTuner, BlockTunerLayer
from .unloading import hand_over_hooks


class WrappedLayer(BlockTunerLayer):
    """A tuner layer in the place of a module whose output it changes.

    Subclasses name one `ModuleDict` in `adapter_layer_names` and make its modules in `make_adapter`; each has a method
    `delta(h)` from the output of the module to what is added to it.

    Args:
        base_layer (`nn.Module`): The module.
    """

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.handles: list[Handle] = []

    def make_adapter(self, config: Any) -> nn.Module:
        """Make the module of a new adapter.

        Args:
            config (`PeftConfig`): Its configuration.
        """
        raise TypeError(f"{type(self).__name__} does not say how its adapters are made.")

    def update_layer(self, adapter_name: str, config: PeftConfig) -> None:
        """Create a new adapter where the module is, of its data type."""
        adapter = self.make_adapter(config)
        adapter.train(self.training)
        device, dtype = place_of(self.get_base_layer())
        on_meta = any(p.is_meta for p in adapter.parameters())  # those wait for their weights
        adapter.to(device=None if on_meta else device, dtype=dtype)
        getattr(self, self.adapter_layer_names[0])[adapter_name] = adapter

    def active_modules(self) -> Iterable[Any]:
        """The modules of the active adapters, as `make_adapter` made them; none when adapters are disabled."""
        modules = getattr(self, self.adapter_layer_names[0])
        return [] if self.disable_adapters else [modules[name] for name in self.active_adapters if name in modules]

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run the module and add what the active adapters, or those that the rows name, have for its output."""
        output = self.base_layer(x, *args, **kwargs)
        groups = None if self.disable_adapters else row_groups(len(output))
        if groups is None:
            return self._adapt(output)
        parts, order = [], []
        for names, rows in groups:
            with choose_adapters(names):
                parts.append(self._adapt(output[rows]))
            order.append(rows)
        return torch.cat(parts)[torch.cat(order).argsort()]

    def _adapt(self, output: Tensor) -> Tensor:
        result = output
        for adapter in self.active_modules():
            output_cast = self._cast_input_dtype(output, adapter_dtype(adapter, output.dtype))
            result = result + adapter.delta(output_cast).to(output.dtype)
        return result

    def release(self) -> None:
        """Take back what was done to other modules, before the module itself comes back."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    @property
    def width(self) -> int:
        """Channels of the module's output."""
        module = self.get_base_layer()
        for name in ("out_features", "out_channels"):  # a quantised weight has another shape
            if isinstance(getattr(module, name, None), int):
                return getattr(module, name)
        return module.normalized_shape[-1] if isinstance(module, nn.LayerNorm) else len(module.weight)  # type: ignore[arg-type]


class WrappedTuner(BlockTuner):
    """Base of the tuners whose layers are `WrappedLayer`s; subclasses set `prefix` and `tuner_layer_cls`.

    Without a `target_names` of their own, they act on the output projections at `config.positions` of the blocks.
    """

    _targets: set[str]

    def target_names(self, model: nn.Module, peft_config: Any, blocks: list[str]) -> list[str]:
        """Names of the modules to wrap, given the blocks that the configuration means.

        Raises:
            ValueError: If a block has no such module.
        """
        return list(output_modules(model, blocks, peft_config.positions))

    def make_layer(self, target: nn.Module, name: str) -> WrappedLayer:
        """Make the layer that takes the place of a module.

        Args:
            target (`nn.Module`): The module.
            name (`str`): Its name in the model.
        """
        return self.tuner_layer_cls(target)  # type: ignore[call-arg, return-value]

    def _prepare_model(self, peft_config: PeftConfig, model: nn.Module) -> None:
        assert isinstance(peft_config, BlockTunerConfig)
        # Everything that can be refused is refused here, before the model is touched.
        blocks, self._excluded = match_blocks(model, peft_config)
        targets = set(self.target_names(model, peft_config, list(blocks)))
        self._targets = targets - self._excluded
        refuse_kept(model, sorted(self._targets))
        refuse_uncalled(model, self._targets, type(self).__name__)
        warn_of_idle_exclusion(model, peft_config, self._excluded, targets)
        warn_of_frozen_head(model, peft_config)

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
        is_ours = type(target) is self.tuner_layer_cls
        layer = target if is_ours else self.make_layer(target, current_key).train(target.training)
        assert isinstance(layer, WrappedLayer)
        layer.update_layer(adapter_name, peft_config)
        layer.set_adapter(self.active_adapters, inference_mode=peft_config.inference_mode)
        if layer is not target:
            layer.handles.append(register_before_checkpoint(outermost_checkpointed(self.model, current_key)))
            hand_over_taps(target, layer)
            setattr(parent, target_name, layer)  # PEFT's own way would look for a `weight`

    def _remove_layers(self) -> None:
        for parent in list(self.model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, WrappedLayer) and type(child) is self.tuner_layer_cls:
                    child.release()
                    hand_over_hooks(child, child.base_layer)
                    setattr(parent, name, child.base_layer)
