"""The Mona tuner; importing it registers the type `MONA` with PEFT."""

from mona_peft.registry import register_tuner
from mona_peft.tuners.mona.triton import use_triton

from .config import MonaConfig
from .layer import MonaLayer
from .model import MonaModel
from .module import Mona

__all__ = ["Mona", "MonaConfig", "MonaLayer", "MonaModel", "use_triton"]

register_tuner("mona", config_cls=MonaConfig, model_cls=MonaModel)
