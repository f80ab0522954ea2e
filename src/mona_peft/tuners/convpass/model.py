"""The Convpass tuner."""

from __future__ import annotations

from mona_peft.tuners.base.tapped import TappedTuner

from .layer import ConvpassLayer


class ConvpassModel(TappedTuner):
    """Adds convolutional bypasses to the blocks of a vision transformer.

    In Swin the bypass of attention reads the whole grid, before it is shifted and cut into windows, as in the
    authors' code. Blocks with their norms behind the branches (Swin V2, timm's `ResPostBlock`) are refused: their
    branches read no normalised tokens, and the paper does not say what a bypass should read there.

    Args:
        model (`nn.Module`): The model to adapt, in place.
        config (`ConvpassConfig`): The configuration.
        adapter_name (`str`): The adapter's name, `"default"` by default.
        low_cpu_mem_usage (`bool`): Whether to create the adapter on the meta device, to be filled by loading.

    Raises:
        ValueError: If the model has no known block, or a block cannot be adapted exactly or has no norms before its
            branches; the model is then unchanged.
    """

    prefix = "convpass_"
    tuner_layer_cls = ConvpassLayer
    child_name = "convpass"
