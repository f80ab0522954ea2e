"""Where a pretrained model is: a folder, the Hub, or what timm and torchvision call by a name of their own."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from mona_peft.finetuning.environment import TORCHVISION, looks_like_path

TIMM = "timm/"


def find_model(name: str) -> str:
    """The folder or Hub id that transformers loads for a name.

    A timm name (`vit_tiny_patch16_224`, with or without `timm/` and tag) becomes the Hub id of its weights;
    `torchvision/swin_t` the folder into which its weights are written once.

    Args:
        name (`str`): As it was given.

    Raises:
        ValueError: If it can only be a folder and there is none, or timm or torchvision have no such model.
    """
    if Path(name).is_dir():
        return name
    if name.startswith(TORCHVISION):
        from .torchvision_classifier import write_pretrained

        return str(write_pretrained(name))
    if looks_like_path(name):
        raise ValueError(f"The model folder {name} does not exist.")
    if name.startswith(TIMM) or "/" not in name:
        return _timm_id(name)
    return name


def _timm_id(name: str) -> str:
    """Hub id of a timm model; a name that timm does not know is left to the Hub."""
    if find_spec("timm") is None:
        return name
    import timm

    bare = name.removeprefix(TIMM)
    if not timm.is_model(bare.partition(".")[0]):
        if name.startswith(TIMM) or "-" in name:
            return name
        near = timm.list_models(f"*{bare.partition('_')[0]}*")[:3]
        hint = f" timm has {', '.join(near)}." if near else ""
        raise ValueError(f"There is no folder {name} here, and timm knows no model of that name.{hint}")
    config = timm.get_pretrained_cfg(bare)
    if config is None or not config.hf_hub_id:
        raise ValueError(f"timm has no pretrained weights of {bare} on the Hub; name a model that has.")
    return config.hf_hub_id
