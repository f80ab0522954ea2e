"""A model by name with random weights, for looks at how it is built."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from mona_peft.finetuning.environment import TORCHVISION, looks_like_path

from .classifier import naming_model
from .places import TIMM


def build_untrained(name: str, seed: int = 0) -> nn.Module:
    """Build a model from its configuration alone.

    Args:
        name (`str`): A folder or Hub id with a `config.json`, a timm name, or `torchvision/NAME`.
        seed (`int`): Of its weights.

    Raises:
        ValueError: If there is no such model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name.startswith(TORCHVISION):
            return _torchvision(name.removeprefix(TORCHVISION))
        bare = name.removeprefix(TIMM).partition(".")[0]
        if not Path(name).exists() and find_spec("timm") is not None:
            import timm

            if timm.is_model(bare):
                return timm.create_model(bare)
        if looks_like_path(name) and not Path(name).is_dir():
            raise ValueError(f"The model folder {name} does not exist.")
        with naming_model(name):
            config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        return AutoModel.from_config(config, trust_remote_code=False)


def _torchvision(name: str) -> nn.Module:
    from torchvision.models import get_model, list_models

    if name not in list_models():
        raise ValueError(f"torchvision has no model {name!r}.")
    return get_model(name)
