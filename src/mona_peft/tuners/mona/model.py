"""The Mona tuner."""

from __future__ import annotations

from mona_peft.tuners.base.tapped import TappedTuner

from .config import MonaConfig
from .layer import MonaLayer


class MonaModel(TappedTuner):
    """Adds Mona adapters to the blocks of a vision backbone.

    A transformer block gets two, after attention and after the MLP; a convolutional block one, after its residual sum
    (ConvNeXt) or the activation that follows the sum (ResNet).

    Args:
        model (`nn.Module`): The model to adapt, in place.
        config (`MonaConfig`): The configuration.
        adapter_name (`str`): The adapter's name, `"default"` by default.
        low_cpu_mem_usage (`bool`): Whether to create the adapter on the meta device, to be filled by loading.

    Raises:
        ValueError: If the model has no known block, or a block cannot be adapted exactly; the model is then unchanged.

    Example:
        ```py
        >>> import mona_peft
        >>> from peft import get_peft_model
        >>> from transformers import AutoModelForImageClassification

        >>> model = AutoModelForImageClassification.from_pretrained("microsoft/swin-tiny-patch4-window7-224")
        >>> model = get_peft_model(model, mona_peft.MonaConfig(modules_to_save=["classifier"]))
        ```
    """

    prefix = "mona_"
    tuner_layer_cls = MonaLayer
    child_name = "mona"

    def acts_after_blocks(self, config: MonaConfig) -> bool:
        """Whether `positions` has `"mlp"`, after which an adapter reads and changes the block's result."""
        return "mlp" in config.positions
