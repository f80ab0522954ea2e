"""Which part of a model is its head and which its backbone."""

from __future__ import annotations

from torch import nn

BACKBONE_NAMES = ("backbone", "base_model")
HEAD_NAMES = ("head", "heads", "classifier", "fc", "head_dist")


def backbone_child(model: nn.Module) -> str | None:
    """Name of the child of a task model that is its backbone, or None where there is no such child.

    transformers names it in `base_model_prefix` or calls it `backbone` or `base_model`.
    """
    children = {name for name, _ in model.named_children()}
    return next((n for n in (getattr(model, "base_model_prefix", ""), *BACKBONE_NAMES) if n in children), None)


def head_modules(model: nn.Module) -> list[str]:
    """Names of the children of a task model that are not its backbone and have parameters.

    In timm and torchvision, where the backbone is no child of its own, the head stands beside the blocks and goes by
    one of a few names.
    """
    children = dict(model.named_children())
    backbone = backbone_child(model)
    if hasattr(model, "out_features") and hasattr(model, "channels"):  # a backbone with its output norms
        names: list[str] = []
    elif backbone is not None:
        names = [name for name in children if name != backbone]
    else:
        names = [name for name in children if name in HEAD_NAMES]
    return [name for name in names if any(True for _ in children[name].parameters())]
