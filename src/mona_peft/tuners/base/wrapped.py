"""What the tuners that change the output of single modules have in common.

A tuner layer takes the place of the module and holds it as `base_layer`, as PEFT's own layers do. What its adapters
add is computed from the module's output h, `h + sum_i delta_i(h)`, so several active adapters add up. Keys read
`...o_proj.<method>_adapter.<adapter>.down.weight`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from peft import PeftConfig
from torch import Tensor, nn

from mona_peft.blocks.checkpointing import outermost_checkpointed, register_before_checkpoint

from .branches import output_modules
from .matching import match_blocks, warn_of_frozen_head
from .tuner import BlockTuner, BlockTunerLayer


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
        self.handles: list[Any] = []

    def make_adapter(self, config: Any) -> nn.Module:
        """Make the module of a new adapter.

        Args:
            config (`PeftConfig`): Its configuration.
        """
        raise TypeError(f"{type(self).__name__} does not say how its adapters are made.")

    def update_layer(self, adapter_name: str, config: Any) -> None:
        """Create a new adapter where the module is, of its data type."""
        adapter = self.make_adapter(config)
        adapter.train(self.training)
        getattr(self, self.adapter_layer_names[0])[adapter_name] = adapter
        self._move_adapter_to_device_of_base_layer(adapter_name)

    def active_modules(self) -> Iterable[nn.Module]:
        """The modules of the active adapters; none when adapters are disabled."""
        modules = getattr(self, self.adapter_layer_names[0])
        return [] if self.disable_adapters else [modules[name] for name in self.active_adapters if name in modules]

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run the module and add what the active adapters have for its output."""
        output = self.base_layer(x, *args, **kwargs)
        result = output
        for adapter in self.active_modules():
            output_cast = self._cast_input_dtype(output, next(adapter.parameters()).dtype)
            result = result + adapter.delta(output_cast).to(output.dtype)  # type: ignore[operator]
        return result

    def release(self) -> None:
        """Take back what was done to other modules, before the module itself comes back."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    @property
    def width(self) -> int:
        """Channels of the module's output."""
        weight = self.get_base_layer().weight
        assert isinstance(weight, Tensor)
        return weight.shape[0]


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

    def _prepare_model(self, peft_config: PeftConfig, model: nn.Module) -> None:
        # Everything that can be refused is refused here, before the model is touched.
        blocks, self._excluded = match_blocks(model, peft_config)
        self._targets = set(self.target_names(model, peft_config, list(blocks)))
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
        layer: Any = target
        if type(layer) is not self.tuner_layer_cls:
            layer = self.tuner_layer_cls(target)  # type: ignore[call-arg]
            layer.train(target.training)
        layer.update_layer(adapter_name, peft_config)
        layer.set_adapter(self.active_adapters, inference_mode=peft_config.inference_mode)
        if layer is not target:
            layer.handles.append(register_before_checkpoint(outermost_checkpointed(self.model, current_key)))
            self._replace_module(parent, target_name, layer, target)

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> Any:
        if merge:
            self._check_merge_allowed()
        for layer in self.model.modules():
            if isinstance(layer, WrappedLayer) and isinstance(layer, self.tuner_layer_cls):
                layer.release()
        return super()._unload_and_optionally_merge(merge, progressbar, safe_merge, adapter_names)
