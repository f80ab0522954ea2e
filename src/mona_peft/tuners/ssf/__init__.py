"""SSF, scaling and shifting of features; importing the package registers the type `SSF` with PEFT."""

from mona_peft.registry import register_tuner

from .config import SSFConfig
from .layer import SSFLayer
from .model import SSFModel
from .module import ScaleShift

__all__ = ["SSFConfig", "SSFLayer", "SSFModel", "ScaleShift"]

register_tuner("ssf", config_cls=SSFConfig, model_cls=SSFModel)
