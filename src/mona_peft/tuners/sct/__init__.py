"""Salient channel tuning; importing the package registers the type `SCT` with PEFT."""

from mona_peft.registry import register_tuner

from .config import SCTConfig
from .layer import SCTLayer
from .model import SCTModel
from .module import ChannelMap
from .selection import select_salient_channels

__all__ = ["ChannelMap", "SCTConfig", "SCTLayer", "SCTModel", "select_salient_channels"]

register_tuner("sct", config_cls=SCTConfig, model_cls=SCTModel)
