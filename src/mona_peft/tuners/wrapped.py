"""What the tuners that change the output of single modules have in common.

A tuner layer takes the place of the module and holds it as `base_layer`, as PEFT's own layers do. What its adapters
add is computed from the module's output h, `h + sum_i delta_i(h)`, so several active adapters add up. Keys read
`...o_proj.<method>_adapter.<adapter>.down.weight`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn

from ..compat import ExcludedModule
from ..residual import outermost_checkpointed, require_input_grad
from .branches import output_modules
from .tapped import match_blocks, merge_refusal, refuse_misfits, warn_of_frozen_head


class WrappedLayer(nn.Module, BaseTunerLayer):
    """A tuner layer in the place of a module whose output it changes.

    Subclasses name one `ModuleDict` in `adapter_layer_names` and make its modules in `make_adapter`; each has a method
    `delta(h)` from the output of the module to what is added to it.

    Args:
        base_layer (`nn.Module`): The module.
    """

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self._disable_adapters = False
        self._active_adapter: str | list[str] = []
        self.merged_adapters: list[str] = []
        self.handles: list[Any] = []
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ModuleDict())

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

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse: see `WrappedTuner.merge_and_unload`."""
        raise ValueError(merge_refusal(type(self).__name__))

    def unmerge(self) -> None:
        """Nothing is ever merged."""

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """No: the method adds no difference of weights."""
        return False

    @property
    def width(self) -> int:
        """Channels of the module's output."""
        weight = self.get_base_layer().weight
        assert isinstance(weight, Tensor)
        return weight.shape[0]


class WrappedTuner(BaseTuner):
    """Base of the tuners whose layers are `WrappedLayer`s; subclasses set `prefix` and `tuner_layer_cls`.

    Without a `target_names` of their own, they act on the output projections at `config.positions` of the blocks.
    """

    target_module_mapping: dict[str, list[str]] = {}

    def target_names(self, model: nn.Module, peft_config: Any, blocks: list[str]) -> list[str]:
        """Names of the modules to wrap, given the blocks that the configuration means.

        Raises:
            ValueError: If a block has no such module.
        """
        return list(output_modules(model, blocks, peft_config.positions))

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict) -> PeftConfig:
        return peft_config  # the blocks are found in the model, `target_modules=None` stays as the user gave it

    def _prepare_model(self, peft_config: PeftConfig, model: nn.Module) -> None:
        # Everything that can be refused is refused here, before the model is touched.
        blocks, self._excluded = match_blocks(model, peft_config)
        self._targets = set(self.target_names(model, peft_config, list(blocks)))
        warn_of_frozen_head(model, peft_config)

    def _check_target_module_exists(self, peft_config: PeftConfig, key: str) -> Any:  # type: ignore[override]
        return ExcludedModule() if key in self._excluded else key in self._targets

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
            checkpointed = outermost_checkpointed(self.model, current_key)
            layer.handles.append(checkpointed.register_forward_pre_hook(require_input_grad))
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

    def _check_merge_allowed(self) -> None:
        raise ValueError(merge_refusal(type(self).__name__))

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        head, separator, tail = key.partition(f".{cls.prefix}")
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
