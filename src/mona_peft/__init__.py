"""Mona (Multi-cognitive Visual Adapter, CVPR 2025) as a plugin for Hugging Face PEFT.

Importing this package registers its tuners with PEFT.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .block_spec import BlockSpec
from .checkpoints import load_official_checkpoint, save_official_checkpoint, to_official_state_dict
from .summary import summary
from .tuners.adaptformer import AdaptFormerConfig, AdaptFormerModel
from .tuners.bottleneck import BottleneckConfig, BottleneckModel
from .tuners.convpass import ConvpassConfig, ConvpassModel
from .tuners.lorand import LoRandConfig, LoRandModel
from .tuners.mona import Mona, MonaConfig, MonaLayer, MonaModel
from .tuners.sct import SCTConfig, SCTModel, select_salient_channels
from .tuners.ssf import SSFConfig, SSFModel
from .tuners.vpt import VPTConfig, VPTModel

if TYPE_CHECKING:
    from .inference import load

__version__ = "0.1.0"

__all__ = [
    "AdaptFormerConfig",
    "AdaptFormerModel",
    "BlockSpec",
    "BottleneckConfig",
    "BottleneckModel",
    "ConvpassConfig",
    "ConvpassModel",
    "LoRandConfig",
    "LoRandModel",
    "Mona",
    "MonaConfig",
    "MonaLayer",
    "MonaModel",
    "SCTConfig",
    "SCTModel",
    "SSFConfig",
    "SSFModel",
    "VPTConfig",
    "VPTModel",
    "load",
    "load_official_checkpoint",
    "save_official_checkpoint",
    "select_salient_channels",
    "summary",
    "to_official_state_dict",
]

# These need the extra [train]; they are imported when first asked for.
_LAZY = {"load": ".inference"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
