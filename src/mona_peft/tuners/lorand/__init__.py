"""LoRand adapters; importing the package registers the type `LORAND` with PEFT."""

from mona_peft.registry import register_tuner

from .config import LoRandConfig
from .layer import LoRandLayer
from .model import LoRandModel
from .module import LoRand

__all__ = ["LoRand", "LoRandConfig", "LoRandLayer", "LoRandModel"]

register_tuner("lorand", config_cls=LoRandConfig, model_cls=LoRandModel)
