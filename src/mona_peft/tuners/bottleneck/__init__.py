"""Bottleneck adapters; importing the package registers the type `BOTTLENECK` with PEFT."""

from mona_peft.registry import register_tuner

from .config import BottleneckConfig
from .layer import BottleneckLayer
from .model import BottleneckModel
from .module import Bottleneck

__all__ = ["Bottleneck", "BottleneckConfig", "BottleneckLayer", "BottleneckModel"]

register_tuner("bottleneck", config_cls=BottleneckConfig, model_cls=BottleneckModel)
