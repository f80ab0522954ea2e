"""The SCT tuner."""

from __future__ import annotations

from mona_peft.tuners.base.tapped import TappedTuner

from .layer import SCTLayer


class SCTModel(TappedTuner):
    """Adds maps of the salient channels to the blocks of a vision transformer.

    After it is made, [`select_salient_channels`] has to find the channels; without them the model refuses to run.

    Args:
        model (`nn.Module`): The model to adapt, in place.
        config (`SCTConfig`): The configuration.
        adapter_name (`str`): The adapter's name, `"default"` by default.
        low_cpu_mem_usage (`bool`): Whether to create the adapter on the meta device, to be filled by loading.

    Raises:
        ValueError: If the model has no known block, or a block cannot be adapted exactly; the model is then unchanged.
    """

    prefix = "sct_"
    tuner_layer_cls = SCTLayer
    child_name = "sct"
