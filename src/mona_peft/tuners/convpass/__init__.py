"""Convolutional bypasses; importing the package registers the type `CONVPASS` with PEFT."""

from mona_peft.registry import register_tuner

from .config import ConvpassConfig
from .layer import ConvpassLayer
from .model import ConvpassModel
from .module import Convpass

__all__ = ["Convpass", "ConvpassConfig", "ConvpassLayer", "ConvpassModel"]

register_tuner("convpass", config_cls=ConvpassConfig, model_cls=ConvpassModel)
