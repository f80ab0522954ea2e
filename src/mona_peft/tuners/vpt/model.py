"""The VPT tuner."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from mona_peft.blocks.known import find_blocks, find_spec
from mona_peft.blocks.modules import find_patch_embedding, has_submodule, stream_width
from mona_peft.blocks.spec import BlockSpec
from mona_peft.tuners.base.wrapped import WrappedTuner

from .config import VPTConfig
from .layer import VPTLayer
from .module import uniform_bound

ATTENTION_NAMES = ("attention", "attn")
NORM_NAMES = ("layernorm_before", "norm1")
POSITION_BIAS = "relative_position_bias"

#: Parts of the names of parameters and modules by which attention places its tokens: more tokens would not fit.
PLACES = ("relative_position", "rel_pos", "position_bias", "cpb")
#: Arguments by which attention is told of a grid or of positions: with more tokens they would not fit.
GRID_ARGUMENTS = ("height", "width", "rope", "shared_rel_pos_bias", "shared_rel_pos")


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
    _bound: float | None

    def target_names(self, model: nn.Module, peft_config: VPTConfig, blocks: list[str]) -> list[str]:
        """Names of the attention modules of the blocks."""
        names = []
        for name in blocks:
            block = model.get_submodule(name)
            reason = why_not(block, peft_config.block_specs)
            if reason:
                raise ValueError(
                    f"Prompts cannot join the tokens of block '{name}' ({type(block).__name__}): {reason}. Choose "
                    "another method, or a newer transformers."
                )
            names.append(f"{name}.{attention_name(block)}")
        self._bound = prompt_bound(model, peft_config.block_specs)
        return names

    def make_layer(self, target: nn.Module, name: str) -> VPTLayer:
        """Make the layer that takes the place of an attention module."""
        block = self.model.get_submodule(name.rpartition(".")[0])
        spec = find_spec(block, self._injected.block_specs)
        assert spec is not None
        layer = VPTLayer(target, block, spec.attention_norm, stream_width(block, spec), self._bound)
        bias = getattr(layer.get_base_layer(), POSITION_BIAS, None)
        if bias is not None:
            layer.join(bias)
        return layer


def attention_name(block: nn.Module) -> str | None:
    """Name of the child of `block` that is its attention."""
    return next((name for name in ATTENTION_NAMES if isinstance(getattr(block, name, None), nn.Module)), None)


def why_not(block: nn.Module, specs: Sequence[BlockSpec] | None = None) -> str:
    """Why prompts cannot join the tokens that the attention of `block` sees; empty if they can.

    Args:
        block (`nn.Module`): A block.
        specs (`Sequence[BlockSpec]`, *optional*): Rows that go before those of the table.
    """
    spec, attention = find_spec(block, specs), attention_name(block)
    if attention is None:
        return f"it must have its attention under one of {ATTENTION_NAMES}"
    known = spec is not None and (spec.norm or spec.attention_norm in NORM_NAMES)
    if spec is None or not known or not has_submodule(block, spec.attention_norm):
        return f"it must have a norm before its attention, under one of {NORM_NAMES} or as `norm` of its `BlockSpec`"
    if spec.grid in ("channels_first", "channels_last"):
        return "its attention sees an image, and not a sequence of tokens"
    if spec.sequence:
        return "the order of its tokens says where they are, and more tokens would not fit it"
    module = getattr(block, attention)
    module = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    arguments = sorted(set(inspect.signature(type(module).forward).parameters) & set(GRID_ARGUMENTS))
    if arguments:
        return f"its attention is told {arguments}, which would not fit more tokens"
    named = [name for name, _ in (*module.named_parameters(), *module.named_modules())]
    places = [name for name in named if any(part in name for part in PLACES)]
    hidden = [name for name in places if name.split(".")[0] != POSITION_BIAS]
    return (
        f"its attention adds a position bias ({hidden[0]}) to its tokens, not in a module '{POSITION_BIAS}'"
        if hidden
        else ""
    )


def prompt_bound(model: nn.Module, specs: Sequence[BlockSpec] | None = None) -> float | None:
    """The authors' bound for the prompts of a model; None if its patches are unknown.

    Args:
        model (`nn.Module`): The model.
        specs (`Sequence[BlockSpec]`, *optional*): Rows that go before those of the table.
    """
    first, spec = next(iter(find_blocks(model, specs).items()))
    width = stream_width(model.get_submodule(first), spec)
    found = find_patch_embedding(model, first, spec, width)
    if found is None:
        return None
    around, path = found
    convolution = around.get_submodule(path)
    assert isinstance(convolution, nn.Conv2d)
    return uniform_bound(convolution.in_channels * math.prod(convolution.kernel_size), width)
