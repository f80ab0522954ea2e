"""The VPT tuner."""

from __future__ import annotations

from typing import Any

from torch import nn

from mona_peft.tuners.base.wrapped import WrappedTuner

from .layer import VPTLayer

ATTENTION_NAMES = ("attention", "attn")
NORM_NAMES = ("layernorm_before", "norm1")
POSITION_BIAS = "relative_position_bias"


class VPTModel(WrappedTuner):
    """Adds deep visual prompts to the blocks of a vision transformer.

    Args:
        model (`nn.Module`): The model to adapt, in place.
        config (`VPTConfig`): The configuration.
        adapter_name (`str`): The adapter's name, `"default"` by default.
        low_cpu_mem_usage (`bool`): Whether to create the adapter on the meta device, to be filled by loading.

    Raises:
        ValueError: If the model has no known block, or a block's attention cannot take prompts; the model is then
            unchanged.
    """

    prefix = "vpt_"
    tuner_layer_cls = VPTLayer

    def target_names(self, model: nn.Module, peft_config: Any, blocks: list[str]) -> list[str]:
        """Names of the attention modules of the blocks."""
        names = []
        for name in blocks:
            block = model.get_submodule(name)
            attention, norm = _child(block, ATTENTION_NAMES), _child(block, NORM_NAMES)
            if attention is None or norm is None or _hidden_position_bias(getattr(block, attention)):
                raise ValueError(
                    f"Prompts cannot join the tokens of block '{name}' ({type(block).__name__}): it must have its "
                    f"attention under one of {ATTENTION_NAMES}, a norm before it under one of {NORM_NAMES}, and any "
                    f"position bias in a module '{POSITION_BIAS}'. Choose another method, or a newer transformers."
                )
            names.append(f"{name}.{attention}")
        return names

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        super()._create_and_replace(peft_config, adapter_name, target, target_name, parent, current_key)
        if not isinstance(target, VPTLayer):
            norm = _child(parent, NORM_NAMES)
            assert norm is not None
            layer = getattr(parent, target_name)
            layer.join(getattr(parent, norm), getattr(layer.get_base_layer(), POSITION_BIAS, None))

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        setattr(parent, child_name, new_module)  # PEFT would look for a `weight`, which attention has not


def _child(block: nn.Module, names: tuple[str, ...]) -> str | None:
    """The first of `names` that is a child of `block`."""
    return next((name for name in names if isinstance(getattr(block, name, None), nn.Module)), None)


def _hidden_position_bias(attention: nn.Module) -> bool:
    """Whether attention adds a position bias that no module of its own gives: it would not fit more tokens."""
    tables = [name for name, _ in attention.named_parameters() if "relative_position" in name]
    return any(f"{POSITION_BIAS}." not in name for name in tables)
