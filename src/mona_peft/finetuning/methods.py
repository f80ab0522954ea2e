"""Fine-tuning methods by name: each makes a loaded model ready to train.

A method decides what trains in the backbone; the head always trains (arXiv 2408.08345, section 4). New methods are
rows added with [`register_method`].
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from peft import LoraConfig, PeftConfig, get_peft_model
from torch import Tensor, nn

from mona_peft.blocks.head import find_head, is_head
from mona_peft.blocks.known import find_blocks
from mona_peft.blocks.modules import has_submodule
from mona_peft.finetuning.settings import check_names
from mona_peft.tuners.adaptformer import AdaptFormerConfig
from mona_peft.tuners.bottleneck import BottleneckConfig
from mona_peft.tuners.convpass import ConvpassConfig
from mona_peft.tuners.lorand import LoRandConfig
from mona_peft.tuners.mona import MonaConfig
from mona_peft.tuners.sct import SCTConfig, select_salient_channels
from mona_peft.tuners.ssf import SSFConfig
from mona_peft.tuners.vpt import VPTConfig

# Names of the query and value projections, by the conventions of the libraries that define the models. A fused
# projection (timm) can only be adapted as a whole.
QUERY_VALUE_NAMES = (("q_proj", "v_proj"), ("query", "value"), ("q_lin", "v_lin"), ("q", "v"), ("qkv",))

# Fits a prepared model to training data: pairs of the model's inputs (a mapping) and one label an image `(B,)`.
Calibrate = Callable[[nn.Module, Iterable[tuple[Any, Tensor]]], None]


@dataclass(frozen=True)
class Method:
    """One row of the table of methods.

    Args:
        name (`str`): the name given on the command line.
        prepare (`Callable`): `prepare(model, head, **options)` gives back the model to train.
        description (`str`): what trains in the backbone, in a few words.
        options (`frozenset[str]`): names of the settings that `prepare` takes.
        calibrate (`Calibrate`, *optional*): fits the prepared model to training data before it trains.
    """

    name: str
    prepare: Callable[..., nn.Module]
    description: str
    options: frozenset[str]
    calibrate: Calibrate | None = None


METHODS: dict[str, Method] = {}


def register_method(
    name: str,
    description: str,
    calibrate: Calibrate | None = None,
    config_class: type[PeftConfig] | None = None,
) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Add the decorated `prepare(model, head, **options)` to the table under `name`; see [`Method`].

    Args:
        name (`str`): a name that is free.
        description (`str`): what trains in the backbone.
        calibrate (`Calibrate`, *optional*): see [`Method`].
        config_class (`type[PeftConfig]`, *optional*): of the adapter whose settings `prepare` passes on; without one,
            the settings are the arguments that `prepare` has of its own.

    Raises:
        `ValueError`: If the name is taken.
    """

    def add(prepare: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        if name in METHODS:
            raise ValueError(f"A method named {name!r} exists already; choose another name.")
        own = list(inspect.signature(prepare).parameters.values())[2:]
        options = {parameter.name for parameter in own if parameter.kind is not parameter.VAR_KEYWORD}
        if config_class is not None:
            # What every adapter has is set by PEFT, and the head by `apply_method`.
            shared = {field.name for field in fields(PeftConfig)} | {"modules_to_save", "provided_by"}
            options |= {field.name for field in fields(config_class) if field.init} - shared
        METHODS[name] = Method(name, prepare, description, frozenset(options), calibrate)
        return prepare

    return add


def register_adapter(
    name: str, config_class: type[PeftConfig], description: str, calibrate: Calibrate | None = None
) -> None:
    """Add a method that trains an adapter, with the settings of its configuration; see [`register_method`]."""

    def prepare(model: nn.Module, head: tuple[str, ...], **options: Any) -> nn.Module:
        return get_peft_model(model, config_class(modules_to_save=list(head), **options))  # type: ignore[call-arg]

    register_method(name, description, calibrate, config_class)(prepare)


def check_method(name: str, options: Mapping[str, Any]) -> Method:
    """Find a method and check the names of its settings.

    Args:
        name (`str`): a key of `METHODS`.
        options (`Mapping[str, Any]`): the settings that it is to get.

    Raises:
        `ValueError`: If no method has that name, or the method has no such setting.
    """
    if name not in METHODS:
        raise ValueError(f"Unknown method {name!r}; choose one of {', '.join(sorted(METHODS))}.")
    method = METHODS[name]
    check_names(f"The method {name!r}", options, method.options)
    return method


def apply_method(model: nn.Module, name: str, head: Iterable[str] | None = None, **options: Any) -> nn.Module:
    """Make `model` ready to train with the method called `name`.

    Args:
        model (`nn.Module`): a model with its head, every parameter trainable or not.
        name (`str`): a key of `METHODS`.
        head (`Iterable[str]`, *optional*): paths of the modules that always train (head, neck). Found by
            [`find_head`] when left out.
        **options: settings of the method, such as `r` for `lora` or `bottleneck_dim` for `mona`.

    Returns:
        `nn.Module`: the same model with its parameters frozen as the method wants, or the `PeftModel` around it.

    Raises:
        `ValueError`: If no method has that name, it has no such setting, a path in `head` names no module with
            parameters, or the model's head cannot be told from its backbone.
    """
    method = check_method(name, options)
    found = find_head(model) if head is None else tuple(head)
    if found is None:
        raise ValueError(
            f"Cannot tell the head of {type(model).__name__} from its backbone; name it: "
            "apply_method(..., head=['...'])."
        )
    for path in found:
        if not has_submodule(model, path) or not any(True for _ in model.get_submodule(path).parameters()):
            raise ValueError(f"The head {path!r} has no parameters; name the module that is to train.")
    return method.prepare(model, found, **options)


def freeze_all_but(model: nn.Module, trains: Callable[[str], bool]) -> nn.Module:
    """Set `requires_grad` of every parameter to what `trains` says of its name."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trains(name))
    return model


def query_value_targets(model: nn.Module) -> list[str]:
    """Names of the query and value projections in this family of models.

    Raises:
        `ValueError`: if no known pair of names is there.
    """
    leaves = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for names in QUERY_VALUE_NAMES:
        if leaves.issuperset(names):
            return list(names)
    raise ValueError(
        f"{type(model).__name__} has no linear layers under any of the names {QUERY_VALUE_NAMES}; pass target_modules."
    )


@register_method("full", "everything")
def prepare_full(model: nn.Module, head: tuple[str, ...]) -> nn.Module:
    """Train every parameter."""
    return freeze_all_but(model, lambda name: True)


@register_method("fixed", "nothing")
def prepare_fixed(model: nn.Module, head: tuple[str, ...]) -> nn.Module:
    """Train the head alone."""
    return freeze_all_but(model, lambda name: is_head(name, head))


@register_method("bitfit", "every parameter with 'bias' in its name")
def prepare_bitfit(model: nn.Module, head: tuple[str, ...]) -> nn.Module:
    """Train biases, relative-position tables included (their name holds `bias`), and the head."""
    return freeze_all_but(model, lambda name: "bias" in name or is_head(name, head))


@register_method("norm", "every norm layer")
def prepare_norm(model: nn.Module, head: tuple[str, ...]) -> nn.Module:
    """Train the parameters with `norm` in their name, and the head."""
    return freeze_all_but(model, lambda name: "norm" in name or is_head(name, head))


@register_method("partial-1", "the last block")
def prepare_partial(model: nn.Module, head: tuple[str, ...], blocks: int = 1) -> nn.Module:
    """Train the last block, or the last `blocks` of them, and the head.

    Raises:
        `ValueError`: if the model has no known block, or fewer than `blocks`.
    """
    names = list(find_blocks(model))
    if not 1 <= blocks <= len(names):
        raise ValueError(f"blocks={blocks!r} must be at least 1 and at most the {len(names)} blocks the model has.")
    last = tuple(f"{name}." for name in names[-blocks:])
    return freeze_all_but(model, lambda name: name.startswith(last) or is_head(name, head))


@register_method("lora", "rank-64 updates of the query and value projections", config_class=LoraConfig)
def prepare_lora(model: nn.Module, head: tuple[str, ...], r: int = 64, **options: Any) -> nn.Module:
    """Train rank `r` updates of q and v, scaled by `lora_alpha / r` (1 unless `lora_alpha` is given), and the head."""
    options = {"target_modules": query_value_targets(model), "lora_alpha": r, **options}
    return get_peft_model(model, LoraConfig(r=r, modules_to_save=list(head), **options))


register_adapter("bottleneck", BottleneckConfig, "two bottleneck adapters a block, on the attention and MLP outputs")
register_adapter("adaptformer", AdaptFormerConfig, "a scaled bottleneck beside each MLP")
register_adapter("lorand", LoRandConfig, "two bottleneck adapters a block made of low-rank products")
register_adapter("mona", MonaConfig, "two Mona adapters a block")
register_adapter("ssf", SSFConfig, "scales and shifts of every layer's output")
register_adapter("vpt", VPTConfig, "ten prompts a block")
register_adapter("convpass", ConvpassConfig, "two convolutional bypasses a block, beside attention and MLP")
register_adapter("sct", SCTConfig, "a map of the salient channels in each block", select_salient_channels)
