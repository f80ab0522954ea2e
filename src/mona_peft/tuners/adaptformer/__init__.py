"""AdaptFormer adapters; importing the package registers the type `ADAPTFORMER` with PEFT."""

from mona_peft.registry import register_tuner

from .config import AdaptFormerConfig
from .layer import AdaptFormerLayer
from .model import AdaptFormerModel

__all__ = ["AdaptFormerConfig", "AdaptFormerLayer", "AdaptFormerModel"]

register_tuner("adaptformer", config_cls=AdaptFormerConfig, model_cls=AdaptFormerModel)
