"""Mona (Multi-cognitive Visual Adapter, CVPR 2025) as a plugin for Hugging Face PEFT.

Importing this package registers its tuners with PEFT.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from .asked import only_explains
from .notices import without_notice

if TYPE_CHECKING or not only_explains(sys.orig_argv):
    with without_notice():
        import peft  # noqa: F401

    from mona_peft.blocks.spec import BlockSpec
    from mona_peft.tuners.adaptformer import AdaptFormerConfig, AdaptFormerModel
    from mona_peft.tuners.bottleneck import BottleneckConfig, BottleneckModel
    from mona_peft.tuners.convpass import ConvpassConfig, ConvpassModel
    from mona_peft.tuners.lorand import LoRandConfig, LoRandModel
    from mona_peft.tuners.mona import Mona, MonaConfig, MonaLayer, MonaModel
    from mona_peft.tuners.sct import SCTConfig, SCTModel, select_salient_channels
    from mona_peft.tuners.ssf import SSFConfig, SSFModel
    from mona_peft.tuners.vpt import VPTConfig, VPTModel

    from .official import load_official_checkpoint, save_official_checkpoint, to_official_state_dict
    from .summary import summary

if TYPE_CHECKING:
    from mona_peft.finetuning.costs.plan import plan
    from mona_peft.finetuning.exporting.export import export
    from mona_peft.finetuning.inference.loading import load
    from mona_peft.finetuning.inference.saving import save
    from mona_peft.finetuning.serving.router import AdapterRouter

    from .inspection import inspect_backbone

__version__ = "0.1.0"

__all__ = [
    "AdapterRouter",
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
    "export",
    "inspect_backbone",
    "load",
    "load_official_checkpoint",
    "plan",
    "save",
    "save_official_checkpoint",
    "select_salient_channels",
    "summary",
    "to_official_state_dict",
]

# These are imported when first asked for; those of the application need the extra [train].
_LAZY = {
    "AdapterRouter": ".finetuning.serving.router",
    "export": ".finetuning.exporting.export",
    "inspect_backbone": ".inspection",
    "load": ".finetuning.inference.loading",
    "plan": ".finetuning.costs.plan",
    "save": ".finetuning.inference.saving",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    try:
        return getattr(import_module(_LAZY[name], __name__), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == __name__:
            raise
        raise ImportError(
            f"mona_peft.{name} needs {error.name}, which is not installed: install mona-peft with its extra [train].",
            name=error.name,
        ) from error
