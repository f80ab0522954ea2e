"""The SSF tuner."""

from __future__ import annotations

from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from mona_peft.blocks.head import find_head, is_head
from mona_peft.tuners.base.wrapped import WrappedTuner

from .layer import SSFLayer

ADAPTED = (nn.Linear, nn.LayerNorm, nn.Conv2d)


class SSFModel(WrappedTuner):
    """Scales and shifts the outputs of a vision transformer's layers.

    Scales and shifts could be folded into the layers' weights; that is not done here, so merging is refused.

    Args:
        model (`nn.Module`): The model to adapt, in place.
        config (`SSFConfig`): The configuration.
        adapter_name (`str`): The adapter's name, `"default"` by default.
        low_cpu_mem_usage (`bool`): Whether to create the adapter on the meta device, to be filled by loading.

    Raises:
        ValueError: If the model has no known block; the model is then unchanged.
    """

    prefix = "ssf_"
    tuner_layer_cls = SSFLayer

    def target_names(self, model: nn.Module, peft_config: Any, blocks: list[str]) -> list[str]:
        """Names of the layers to adapt: those of the blocks, or of all that is no head."""
        heads = [*(find_head(model) or ()), *(peft_config.modules_to_save or [])]
        inside = [f"{name}." for name in blocks]
        chosen = []
        for name, module in layers(model):
            if peft_config.whole_backbone:
                wanted = not is_head(name, heads)
            else:
                wanted = name.startswith(tuple(inside))
            if wanted and isinstance(module, ADAPTED):
                chosen.append(name)
        return chosen

    def _check_merge_allowed(self) -> None:
        raise ValueError(
            f"{type(self).__name__} cannot be merged: folding scales and shifts into the weights is not supported. "
            "Use `unload()` for the base model, and `torch.export` or ONNX export for one file that holds both."
        )


def layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules of `model` by name, what a tuner layer wraps in its place, without the insides of tuner layers."""
    named = dict(model.named_modules())
    inside = tuple(f"{name}." for name, module in named.items() if isinstance(module, BaseTunerLayer))
    return [
        (name, module.get_base_layer() if isinstance(module, BaseTunerLayer) else module)
        for name, module in named.items()
        if not name.startswith(inside)
    ]
