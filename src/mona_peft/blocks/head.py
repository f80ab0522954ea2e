"""Which part of a model is its backbone and which its head: the one rule, for all that trains, counts and warns.

The head is everything outside the backbone: the classifier, or a dense model's neck, decoder and predictors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

BACKBONE_NAMES = ("backbone", "base_model")
HEAD_NAMES = ("head", "heads", "classifier", "fc", "head_dist")


def find_head(model: nn.Module) -> tuple[str, ...] | None:
    """Paths of the largest modules outside the backbone that have parameters, and of lone parameters among them.

    The backbone of a dense model is the module with the feature maps of transformers' backbones, wherever it is; that
    of another model of transformers, the child named in `base_model_prefix`, `backbone` or `base_model`. In timm and
    torchvision the head stands among the parts of the backbone and goes by one of a few names.

    Args:
        model (`nn.Module`): A model, adapted or not, without the `PeftModel` around it.

    Returns:
        `tuple[str, ...]`: Paths inside the model, none where it is a backbone; None if it follows no convention.
    """
    if _gives_feature_maps(model):
        return ()
    backbone = next((name for name, module in model.named_modules() if name and _gives_feature_maps(module)), None)
    if backbone is not None:
        return tuple(_outside(model, backbone))
    child = _backbone_child(model)
    if child is not None:
        # a wrapper of a whole classifier has nothing else
        return tuple(_outside(model, child)) or tuple(
            f"{child}.{path}" for path in find_head(model.get_submodule(child)) or ()
        )
    named = tuple(name for name, module in model.named_children() if name in HEAD_NAMES and _has_parameters(module))
    return named or _classifier(model)


def is_head(parameter_name: str, head: Iterable[str]) -> bool:
    """Whether a parameter, named as in the model or the `PeftModel` around it, belongs to one of the `head` paths."""
    bare = parameter_name.removeprefix("base_model.model.")
    return any(bare == path or bare.startswith(f"{path}.") for path in head)


def _gives_feature_maps(module: nn.Module) -> bool:
    return hasattr(module, "out_features") and hasattr(module, "channels")


def _backbone_child(model: nn.Module) -> str | None:
    children = {name for name, _ in model.named_children()}
    return next((n for n in (getattr(model, "base_model_prefix", ""), *BACKBONE_NAMES) if n in children), None)


def _classifier(model: nn.Module) -> tuple[str, ...] | None:
    """The path of what timm's `get_classifier` gives."""
    if not hasattr(model, "get_classifier"):
        return None
    classifier = model.get_classifier()  # type: ignore[operator]
    return tuple(
        path for path, module in model.named_modules() if path and module is classifier and _has_parameters(module)
    )


def _outside(module: nn.Module, backbone: str, prefix: str = "") -> Iterator[str]:
    """Paths of the largest modules that do not contain the backbone, and of parameters that are in none of them."""
    yield from (prefix + name for name, _ in module.named_parameters(recurse=False))
    for name, child in module.named_children():
        path = prefix + name
        if path == backbone:
            continue
        # PEFT cannot save lists and dictionaries of modules, but their items
        if backbone.startswith(f"{path}.") or isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from _outside(child, backbone, f"{path}.")
        elif _has_parameters(child):
            yield path


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())
