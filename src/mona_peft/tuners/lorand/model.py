"""The LoRand tuner."""

from __future__ import annotations

from mona_peft.tuners.base.wrapped import WrappedTuner

from .layer import LoRandLayer


class LoRandModel(WrappedTuner):
    """Adds LoRand adapters to the attention and MLP outputs of a vision transformer's blocks.

    Args:
        model (`nn.Module`): The model to adapt, in place.
        config (`LoRandConfig`): The configuration.
        adapter_name (`str`): The adapter's name, `"default"` by default.
        low_cpu_mem_usage (`bool`): Whether to create the adapter on the meta device, to be filled by loading.

    Raises:
        ValueError: If the model has no known block, or a block has no such output; the model is then unchanged.
    """

    prefix = "lorand_"
    tuner_layer_cls = LoRandLayer
