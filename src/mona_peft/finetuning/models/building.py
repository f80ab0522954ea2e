"""Task models by name: around a pretrained backbone, from a whole model, or rebuilt from a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from mona_peft.blocks.head import find_head

from .architectures import ARCHITECTURES, architecture_of, check_architecture
from .backbones import absolute_if_folder, backbone_config, build_around_backbone, label_maps
from .drop_path import drop_mlp_branches, set_drop_path
from .pretrained import load_fitting


def build_model(
    architecture: str,
    name_or_path: str,
    class_names: Sequence[str],
    out_indices: Sequence[int] | None = None,
    drop_path: float | None = None,
    **options: Any,
) -> PreTrainedModel:
    """Make a task model ready for a method to be applied to it.

    Args:
        architecture (`str`): A key of `ARCHITECTURES`.
        name_or_path (`str`): A pretrained backbone (any classifier), or a model of this very architecture.
        class_names (`Sequence[str]`): By label.
        out_indices (`Sequence[int]`, *optional*): Stages of the backbone to use, from 1; the architecture's usual ones
            if left out, and those it has in a whole model.
        drop_path (`float`, *optional*): Stochastic depth rate of the last block, on both branches; the backbone's
            own, as transformers applies it, if left out.
        **options: Settings of the architecture's configuration.

    Raises:
        ValueError: If there is no such architecture, it has no such settings, it needs more stages, other stages of a
            whole model are asked for, or the files lack weights of the backbone.
    """
    row = check_architecture(architecture, options)
    name_or_path = absolute_if_folder(name_or_path)
    labels = label_maps(class_names)
    pretrained = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    if pretrained.model_type == row.config_class.model_type:
        own = list(getattr(getattr(pretrained, "backbone_config", None), "out_indices", None) or ())
        if out_indices and list(out_indices) != own:
            raise ValueError(
                f"out_indices is {list(out_indices)}, but {name_or_path} is a whole model on the stages {own}; leave "
                "that out, or give the backbone alone."
            )
        for name, value in {**labels, **options}.items():
            setattr(pretrained, name, value)
        set_drop_path(getattr(pretrained, "backbone_config", None) or pretrained, drop_path)
        model, _ = load_fitting(row.model_class, name_or_path, pretrained)
    else:
        backbone = backbone_config(name_or_path, out_indices or row.stages, drop_path)
        config = row.config_class(backbone_config=backbone, **labels, **options)
        found, least = len(backbone.out_indices), row.least_stages(config)
        if found < least:
            raise ValueError(
                f"The architecture {architecture!r} needs {least} stages of a backbone, but gets {found} of this "
                f"{backbone.model_type} model; take a backbone with more, other out_indices, or another architecture."
            )
        model = build_around_backbone(config, row.model_class, name_or_path)
    if drop_path is not None:
        drop_mlp_branches(model)
    return model


def rebuild_model(config: PretrainedConfig, base: str) -> PreTrainedModel:
    """The model that an adapter was trained on, its heads still at random: the adapter brings them.

    Args:
        config (`PretrainedConfig`): Saved with the adapter.
        base (`str`): What the model was built around.

    Raises:
        ValueError: If `config` is not of a dense model of this package, or the base's weights do not fit it.
    """
    architecture = architecture_of(config)
    if architecture is None:
        raise ValueError(f"A {config.model_type} configuration belongs to none of {', '.join(ARCHITECTURES)}.")
    model_class = ARCHITECTURES[architecture].model_class
    if AutoConfig.from_pretrained(base, trust_remote_code=False).model_type == config.model_type:
        return load_fitting(model_class, base, config, head_paths)[0]
    return build_around_backbone(config, model_class, base)


def head_paths(model: nn.Module) -> tuple[str, ...]:
    """Paths of the modules that are not the backbone, neck and heads, as PEFT can train and save them.

    PEFT finds whole modules by the ends of their names, so each path must end no other module's name, and no parameter
    may lie outside a module.

    Raises:
        ValueError: If that does not hold for this model.
    """
    paths = find_head(model) or ()
    parameters = {name for name, _ in model.named_parameters()}
    for path in paths:
        if path in parameters:
            raise ValueError(f"{type(model).__name__} keeps a parameter of its own, {path!r}, which PEFT cannot save.")
    for name, _ in model.named_modules():
        clash = next((path for path in paths if name != path and name.endswith(path)), None)
        if clash is not None:
            raise ValueError(
                f"{type(model).__name__} cannot be trained on this backbone: PEFT would take '{name}' for the head "
                f"'{clash}', by the end of its name. Choose another architecture or backbone."
            )
    return paths
