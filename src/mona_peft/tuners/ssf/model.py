"""The SSF tuner."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from mona_peft.blocks.head import find_head, is_head
from mona_peft.tuners.base.wrapped import WrappedTuner

from .config import SSFConfig
from .layer import SSFLayer

#: In the names of modules that compute a position bias from a table of places, once for all images.
TABLES = ("cpb_mlp", "continuous_position_bias", "rel_pos.")

ADAPTED = (nn.Linear, nn.LayerNorm, nn.Conv2d)

#: Parts of models of transformers that have no part in their outputs, by class: what adapts them would never act.
UNUSED: dict[str, str] = {
    "SwinBackbone": "swin.layernorm",
    "MaskFormerSwinBackbone": "model.layernorm",
    "CLIPForImageClassification": "vision_model.post_layernorm",
    "MetaClip2ForImageClassification": "vision_model.post_layernorm",
    "SiglipForImageClassification": "vision_model.head",
    "Siglip2ForImageClassification": "vision_model.head",
}
#: As above, unless the configuration's `apply_layernorm` is set.
UNUSED_UNLESS_APPLIED: dict[str, str] = {
    "Dinov2Backbone": "layernorm",
    "Dinov2WithRegistersBackbone": "layernorm",
}


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

    def target_names(self, model: nn.Module, peft_config: SSFConfig, blocks: list[str]) -> list[str]:
        """Names of the layers to adapt: those of the blocks, or of all that is no head.

        Raises:
            ValueError: If another method has wrapped a module around some of them.
        """
        heads = [*(find_head(model) or ()), *(peft_config.modules_to_save or []), *unused_parts(model)]
        inside = [f"{name}." for name in blocks]
        chosen = []
        for name, module in layers(model):
            if peft_config.whole_backbone:
                wanted = not is_head(name, heads)
            else:
                wanted = name.startswith(tuple(inside))
            if wanted and isinstance(module, ADAPTED):
                chosen.append(name)
            elif wanted and name not in self._excluded and (layer := model.get_submodule(name)) is not module:
                refuse_wrapped(name, layer, module)
        return chosen

    @contextlib.contextmanager
    def _enable_peft_forward_hooks(
        self, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any
    ) -> Iterator[None]:
        """See `BlockTuner`; some layers that SSF adapts have no rows that belong to images."""
        tables = [n for n, m in self.model.named_modules() if isinstance(m, SSFLayer) and any(t in n for t in TABLES)]
        if adapter_names is not None and (tables or "input_ids" in kwargs):
            what = (
                f"'{tables[0]}' computes a position bias for all of them" if tables else "the call has texts as well"
            )
            raise ValueError(
                "adapter_names cannot be used with SSF here: which row belongs to which image is unknown, for "
                f"{what}. Call the model once for each adapter."
            )
        with super()._enable_peft_forward_hooks(*args, adapter_names=adapter_names, **kwargs):
            yield

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        # Files of earlier releases have scales and shifts of parts that have no part in the output.
        unused = tuple(f"{name}." for name in unused_parts(model))
        used = {k: v for k, v in state_dict.items() if not (f".{cls.prefix}" in k and k.startswith(unused))}
        return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, used)

    def _check_merge_allowed(self) -> None:
        raise ValueError(
            f"{type(self).__name__} cannot be merged: folding scales and shifts into the weights is not supported. "
            "Use `unload()` for the base model, and `torch.export` or ONNX export for one file that holds both."
        )


def refuse_wrapped(name: str, layer: nn.Module, module: nn.Module) -> None:
    """Refuse a tuner layer around a module with layers that would be adapted: PEFT leaves its inside alone.

    Args:
        name (`str`): The layer's name.
        layer (`nn.Module`): The tuner layer.
        module (`nn.Module`): The module it wraps.

    Raises:
        ValueError: If it has such layers.
    """
    inside = next((path for path, part in module.named_modules() if isinstance(part, ADAPTED)), None)
    if inside:
        raise ValueError(
            f"SSF cannot adapt '{inside}' in '{name}', which a {type(layer).__name__} wraps as a whole. Add SSF "
            "before the other method, or leave such modules out with `exclude_modules`."
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


def unused_parts(model: nn.Module) -> list[str]:
    """Names of the modules of `model` that have no part in its output."""
    names = []
    for name, module in model.named_modules():
        cls = type(module).__name__
        part = UNUSED.get(cls)
        if cls in UNUSED_UNLESS_APPLIED and not module.config.apply_layernorm:
            part = UNUSED_UNLESS_APPLIED[cls]
        if part is not None and type(module).__module__.startswith("transformers."):
            names.append(f"{name}.{part}" if name else part)
    return names
