"""Fine-tuning methods by name: each makes a loaded model ready to train.

A method decides what trains in the backbone; the head always trains (arXiv 2408.08345, section 4). New methods are
rows added with [`register_method`].
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .settings import check_names

# Names and descriptions are wanted for a help text, which torch and PEFT would keep waiting: they are imported in use.
if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor, nn

# Names of the query and value projections, by the conventions of the libraries that define the models. A fused
# projection (timm) can only be adapted as a whole.
QUERY_VALUE_NAMES = (("q_proj", "v_proj"), ("query", "value"), ("q_lin", "v_lin"), ("q", "v"), ("qkv",))

# Fits a prepared model to training data: pairs of the model's inputs (a mapping) and one label an image `(B,)`.
Calibrate = Callable[["nn.Module", Iterable[tuple["Tensor | Mapping[str, Tensor]", "Tensor"]]], None]


@dataclass(frozen=True)
class Method:
    """One row of the table of methods.

    Args:
        name (`str`): The name given on the command line.
        prepare (`Callable`): `prepare(model, head, **options)` gives back the model to train.
        description (`str`): What trains in the backbone, in a few words.
        config_class (`str` or `type`, *optional*): Configuration of the adapter whose settings `prepare` passes on, a
            class or `module:Class`.
        calibrate (`Calibrate`, *optional*): Fits the prepared model to training data before it trains.
        learning_rate (`float`): Where to start with AdamW on a pretrained classifier.
    """

    name: str
    prepare: Callable[..., nn.Module]
    description: str
    config_class: str | type[PeftConfig] | None = None
    calibrate: Calibrate | None = None
    learning_rate: float = 1e-3

    @property
    def options(self) -> frozenset[str]:
        """Names of the settings that `prepare` takes: its own arguments, and those of the configuration."""
        own = list(inspect.signature(self.prepare).parameters.values())[2:]
        options = {parameter.name for parameter in own if parameter.kind is not parameter.VAR_KEYWORD}
        if self.config_class is not None:
            from peft import PeftConfig

            # What every adapter has is set by PEFT, and the head by `apply_method`.
            shared = {field.name for field in fields(PeftConfig)} | {"modules_to_save", "provided_by"}
            options |= {field.name for field in fields(find_class(self.config_class)) if field.init} - shared
        return frozenset(options)


METHODS: dict[str, Method] = {}


def register_method(
    name: str,
    description: str,
    calibrate: Calibrate | None = None,
    config_class: str | type[PeftConfig] | None = None,
    learning_rate: float = 1e-3,
) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Add the decorated `prepare(model, head, **options)` to the table under `name`; see [`Method`].

    Args:
        name (`str`): A name that is free.
        description (`str`): What trains in the backbone.
        calibrate (`Calibrate`, *optional*): See [`Method`].
        config_class (`str` or `type`, *optional*): See [`Method`]; without one, the settings are the arguments that
            `prepare` has of its own.
        learning_rate (`float`): See [`Method`].

    Raises:
        ValueError: If the name is taken.
    """

    def add(prepare: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        if name in METHODS:
            raise ValueError(f"A method named {name!r} exists already; choose another name.")
        METHODS[name] = Method(name, prepare, description, config_class, calibrate, learning_rate)
        return prepare

    return add


def register_adapter(
    name: str,
    config_class: str | type[PeftConfig],
    description: str,
    calibrate: Calibrate | None = None,
    learning_rate: float = 1e-3,
) -> None:
    """Add a method that trains an adapter, with the settings of its configuration; see [`register_method`]."""

    def prepare(model: nn.Module, head: tuple[str, ...], **options: Any) -> nn.Module:
        from peft import get_peft_model

        return get_peft_model(model, find_class(config_class)(modules_to_save=list(head), **options))

    register_method(name, description, calibrate, config_class, learning_rate)(prepare)


def find_class(config: str | type[PeftConfig]) -> Any:
    """A configuration class, given as it is or as `module:Class`."""
    if not isinstance(config, str):
        return config
    module, _, name = config.partition(":")
    return getattr(import_module(module), name)


def check_method(name: str, options: Mapping[str, object]) -> Method:
    """Find a method and check the names of its settings.

    Args:
        name (`str`): A key of `METHODS`.
        options (`Mapping[str, object]`): The settings that it is to get.

    Raises:
        ValueError: If no method has that name, or the method has no such setting.
    """
    if name not in METHODS:
        raise ValueError(f"Unknown method {name!r}; choose one of {', '.join(sorted(METHODS))}.")
    method = METHODS[name]
    check_names(f"The method {name!r}", options, method.options)
    return method


def apply_method(model: nn.Module, name: str, head: Iterable[str] | None = None, **options: Any) -> nn.Module:
    """Make `model` ready to train with the method called `name`.

    Args:
        model (`nn.Module`): A model with its head, every parameter trainable or not.
        name (`str`): A key of `METHODS`.
        head (`Iterable[str]`, *optional*): Paths of the modules that always train (head, neck). Found by
            [`find_head`] when left out.
        **options: Settings of the method, such as `r` for `lora` or `bottleneck_dim` for `mona`.

    Returns:
        `nn.Module`: The same model with its parameters frozen as the method wants, or the `PeftModel` around it.

    Raises:
        ValueError: If no method has that name, it has no such setting, a path in `head` names no module with
            parameters, or the model's head cannot be told from its backbone.
    """
    from mona_peft.blocks.head import find_head
    from mona_peft.blocks.modules import has_submodule

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
        ValueError: If no known pair of names is there.
    """
    from torch import nn

    leaves = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for names in QUERY_VALUE_NAMES:
        if leaves.issuperset(names):
            return list(names)
    raise ValueError(
        f"{type(model).__name__} has no linear layers under any of the names {QUERY_VALUE_NAMES}; pass target_modules."
    )


def _is_head(name: str, head: tuple[str, ...]) -> bool:
    from mona_peft.blocks.head import is_head

    return is_head(name, head)


# The rates are those that results/clipart-10 chose (a test holds that); what it did not train keeps a guess.
@register_method("full", "everything", learning_rate=3e-5)
def prepare_full(model: nn.Module, head: tuple[str, ...]) -> nn.Module:
    """Train every parameter."""
    return freeze_all_but(model, lambda name: True)


@register_method("fixed", "nothing", learning_rate=1e-2)
def prepare_fixed(model: nn.Module, head: tuple[str, ...]) -> nn.Module:
    """Train the head alone."""
    return freeze_all_but(model, lambda name: _is_head(name, head))


@register_method("bitfit", "every parameter with 'bias' in its name", learning_rate=3e-3)
def prepare_bitfit(model: nn.Module, head: tuple[str, ...]) -> nn.Module:
    """Train biases, relative-position tables included (their name holds `bias`), and the head."""
    return freeze_all_but(model, lambda name: "bias" in name or _is_head(name, head))


@register_method("norm", "every norm layer", learning_rate=3e-3)
def prepare_norm(model: nn.Module, head: tuple[str, ...]) -> nn.Module:
    """Train the parameters with `norm` in their name, and the head."""
    return freeze_all_but(model, lambda name: "norm" in name or _is_head(name, head))


@register_method("partial-1", "the last block", learning_rate=3e-4)
def prepare_partial(model: nn.Module, head: tuple[str, ...], blocks: int = 1) -> nn.Module:
    """Train the last block, or the last `blocks` of them, and the head.

    Raises:
        ValueError: If the model has no known block, or fewer than `blocks`.
    """
    from mona_peft.blocks.known import find_blocks

    names = list(find_blocks(model))
    if not 1 <= blocks <= len(names):
        raise ValueError(f"blocks={blocks!r} must be at least 1 and at most the {len(names)} blocks the model has.")
    last = tuple(f"{name}." for name in names[-blocks:])
    return freeze_all_but(model, lambda name: name.startswith(last) or _is_head(name, head))


LORA_RANK = 64


def lora_scaling(options: Mapping[str, Any]) -> float:
    """The factor `lora_alpha / r` of LoRA's updates: 1 unless `lora_alpha` is given; the paper's code has alpha 1."""
    rank = options.get("r", LORA_RANK)
    return options.get("lora_alpha", rank) / rank


@register_method("lora", "rank-64 updates of the query and value projections", config_class="peft:LoraConfig")
def prepare_lora(model: nn.Module, head: tuple[str, ...], r: int = LORA_RANK, **options: Any) -> nn.Module:
    """Train rank `r` updates of q and v, scaled as [`lora_scaling`] says, and the head."""
    from peft import LoraConfig, get_peft_model

    options = {"target_modules": query_value_targets(model), "lora_alpha": r, **options}
    return get_peft_model(model, LoraConfig(r=r, modules_to_save=list(head), **options))


def _select_salient_channels(
    model: nn.Module, batches: Iterable[tuple[Tensor | Mapping[str, Tensor], Tensor]], adapter_name: str = "default"
) -> None:
    from mona_peft.tuners.sct import select_salient_channels

    select_salient_channels(model, batches, adapter_name)


_TUNERS = "mona_peft.tuners"
register_adapter(
    "bottleneck",
    f"{_TUNERS}.bottleneck:BottleneckConfig",
    "two bottleneck adapters a block, on the attention and MLP outputs",
    learning_rate=3e-3,
)
register_adapter(
    "adaptformer",
    f"{_TUNERS}.adaptformer:AdaptFormerConfig",
    "a scaled bottleneck parallel to each MLP",
    learning_rate=1e-2,
)
register_adapter(
    "lorand", f"{_TUNERS}.lorand:LoRandConfig", "two bottleneck adapters a block made of low-rank products"
)
register_adapter("mona", f"{_TUNERS}.mona:MonaConfig", "two Mona adapters a block")
register_adapter("ssf", f"{_TUNERS}.ssf:SSFConfig", "scales and shifts of every layer's output")
register_adapter("vpt", f"{_TUNERS}.vpt:VPTConfig", "ten prompts a block", learning_rate=3e-3)
register_adapter(
    "convpass",
    f"{_TUNERS}.convpass:ConvpassConfig",
    "two convolutional bypasses a block, parallel to attention and MLP",
    learning_rate=3e-4,
)
register_adapter(
    "sct", f"{_TUNERS}.sct:SCTConfig", "a map of the salient channels in each block", _select_salient_channels
)
