"""Deep visual prompts; importing the package registers the type `VPT` with PEFT."""

from mona_peft.registry import register_tuner

from .config import VPTConfig
from .layer import VPTLayer
from .model import VPTModel
from .module import Prompts

__all__ = ["Prompts", "VPTConfig", "VPTLayer", "VPTModel"]

register_tuner("vpt", config_cls=VPTConfig, model_cls=VPTModel)
