"""The AdaptFormer tuner."""

from __future__ import annotations

from mona_peft.tuners.base.tapped import TappedTuner

from .layer import AdaptFormerLayer


class AdaptFormerModel(TappedTuner):
    """Adds AdaptFormer adapters to the blocks of a vision transformer.

    Args:
        model (`nn.Module`): The model to adapt, in place.
        config (`AdaptFormerConfig`): The configuration.
        adapter_name (`str`): The adapter's name, `"default"` by default.
        low_cpu_mem_usage (`bool`): Whether to create the adapter on the meta device, to be filled by loading.

    Raises:
        ValueError: If the model has no known block, or a block cannot be adapted exactly; the model is then unchanged.
    """

    prefix = "adaptformer_"
    tuner_layer_cls = AdaptFormerLayer
    child_name = "adaptformer"
