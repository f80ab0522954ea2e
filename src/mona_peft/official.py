"""Checkpoints of the official Mona code to and from PEFT adapters on transformers' Swin.

The official code (https://github.com/Leiyi-Hu/mona) names its modules after the first Swin release: blocks are
`layers.{i}.blocks.{j}`, the adapters in them `my_module_1` (after attention) and `my_module_2` (after the MLP).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mona_peft.blocks.modules import ancestors
from mona_peft.tuners.mona import Mona, MonaLayer

# name inside `Mona` -> official name inside an adapter
ADAPTER_NAMES = {
    "norm.norm.weight": "norm.weight",
    "norm.norm.bias": "norm.bias",
    "norm.norm_scale": "gamma",
    "norm.input_scale": "gammax",
    "down.weight": "project1.weight",
    "down.bias": "project1.bias",
    "depthwise.0.weight": "adapter_conv.conv1.weight",
    "depthwise.0.bias": "adapter_conv.conv1.bias",
    "depthwise.1.weight": "adapter_conv.conv2.weight",
    "depthwise.1.bias": "adapter_conv.conv2.bias",
    "depthwise.2.weight": "adapter_conv.conv3.weight",
    "depthwise.2.bias": "adapter_conv.conv3.bias",
    "pointwise.weight": "adapter_conv.projector.weight",
    "pointwise.bias": "adapter_conv.projector.bias",
    "up.weight": "project2.weight",
    "up.bias": "project2.bias",
}
ADAPTER_MODULES = {"mona_attention": "my_module_1", "mona_mlp": "my_module_2"}
ADAPTER_PATTERN = r"encoder\.layers\.(\d+)\.blocks\.(\d+)\.mona\.(mona_attention|mona_mlp)\.{}\.(.+)"

_BLOCK = r"encoder\.layers\.(\d+)\.blocks\.(\d+)\."
# name in transformers' Swin (4.x and 5.x) -> official name; query, key and value meet in one `qkv`, in this order
BACKBONE_PATTERNS = (
    (r"embeddings\.patch_embeddings\.projection\.(\w+)", r"patch_embed.proj.\1"),
    (r"embeddings\.norm\.(\w+)", r"patch_embed.norm.\1"),
    (r"embeddings\.position_embeddings", r"absolute_pos_embed"),
    (_BLOCK + r"layernorm_before\.(\w+)", r"layers.\1.blocks.\2.norm1.\3"),
    (_BLOCK + r"layernorm_after\.(\w+)", r"layers.\1.blocks.\2.norm2.\3"),
    (
        _BLOCK + r"attention\.(?:self\.)?(?:q_proj|k_proj|v_proj|query|key|value)\.(\w+)",
        r"layers.\1.blocks.\2.attn.qkv.\3",
    ),
    (_BLOCK + r"attention\.(?:o_proj|output\.dense)\.(\w+)", r"layers.\1.blocks.\2.attn.proj.\3"),
    (_BLOCK + r"attention\.(?:\w+\.)?(relative_position_bias_table)", r"layers.\1.blocks.\2.attn.\3"),
    (_BLOCK + r"(?:mlp\.fc1|intermediate\.dense)\.(\w+)", r"layers.\1.blocks.\2.mlp.fc1.\3"),
    (_BLOCK + r"(?:mlp\.fc2|output\.dense)\.(\w+)", r"layers.\1.blocks.\2.mlp.fc2.\3"),
    (r"encoder\.layers\.(\d+)\.downsample\.(.+)", r"layers.\1.downsample.\2"),
    (r"layernorm\.(\w+)", r"norm.\1"),
)
# A backbone has a norm for each of its outputs, a classifier one norm at its end: a checkpoint holds either.
OUTPUT_NORM = re.compile(r"norm\d*\.\w+")
# Swin computes these from its configuration; a head belongs to the task, not to the backbone.
IGNORED = re.compile(r".*\.relative_position_index|.*\.attn_mask|head\..*")


def load_official_checkpoint(
    model: nn.Module, path_or_state_dict: str | Path | Mapping[str, Tensor], adapter_name: str = "default"
) -> None:
    """Bring weights of the official Mona code into an adapted transformers Swin.

    Args:
        model (`nn.Module`): A transformers Swin, bare or inside another model, with a Mona adapter of the official
            design (`MonaConfig()` with its defaults).
        path_or_state_dict (`str`, `Path` or `Mapping[str, Tensor]`): The weights: a safetensors or PyTorch file, of
            which nothing is executed, or what it holds. Names may start with `backbone.`; the Swin's own weights may
            be there or not; a classification head (`head.`) is left out.
        adapter_name (`str`): The adapter to fill.

    Raises:
        ValueError: If keys are unknown or missing, shapes differ, or tensors are sparse, quantised, complex, without
            data or no floats; they are listed and the model is unchanged.
    """
    official = {key: value for key, value in _read(path_or_state_dict).items() if not IGNORED.fullmatch(key)}
    targets = _official_names(model, adapter_name)
    adapter_keys = {key for key in targets if ".my_module_" in key}
    needed = adapter_keys
    if set(official) & set(targets) - adapter_keys:
        needed = {key for key in targets if not OUTPUT_NORM.fullmatch(key)}
    matched = sorted(set(official) & set(targets))
    uncopyable = [
        f"{key} ({fault})"
        for key in matched
        for fault in [
            _fault(official[key]),
            *(f"in the model: {_fault(t)}" if _fault(t) else "" for t in targets[key]),
        ]
        if fault
    ]
    misfits = [
        f"{key} {tuple(official[key].shape)} instead of {tuple(_join(targets[key]).shape)}"
        for key in matched
        if not _fault(official[key]) and official[key].shape != _join(targets[key]).shape
    ]
    problems = {
        "unknown keys": sorted(key for key in set(official) - set(targets) if not OUTPUT_NORM.fullmatch(key)),
        "missing keys": sorted(needed - set(official)),
        "tensors that cannot be copied": uncopyable,
        "shapes that do not fit": misfits,
    }
    if any(problems.values()):
        listed = "; ".join(f"{title}: {items}" for title, items in problems.items() if items)
        raise ValueError(f"The official checkpoint does not fit the model, which is unchanged. {listed}")
    with torch.no_grad():
        for key in matched:
            for target, value in zip(targets[key], official[key].chunk(len(targets[key])), strict=True):
                target.copy_(value)


def to_official_state_dict(
    model: nn.Module, adapter_name: str = "default", include_backbone: bool = False
) -> dict[str, Tensor]:
    """Return a Mona adapter of a transformers Swin in the official naming: the inverse of `load_official_checkpoint`.

    Args:
        model (`nn.Module`): The adapted model.
        adapter_name (`str`): The adapter to write.
        include_backbone (`bool`): Whether to add the Swin's own weights.

    Returns:
        `dict[str, Tensor]`: Copies, on the model's device.
    """
    return {
        key: _join(tensors).detach().clone()
        for key, tensors in _official_names(model, adapter_name).items()
        if include_backbone or ".my_module_" in key
    }


def save_official_checkpoint(
    model: nn.Module, path: str | Path, adapter_name: str = "default", include_backbone: bool = False
) -> None:
    """Write `to_official_state_dict` to a safetensors file.

    Raises:
        FileExistsError: If `path` exists; it is left as it is.
    """
    if Path(path).exists():
        raise FileExistsError(f"'{path}' exists and is kept; choose another name or remove it first.")
    save_file(to_official_state_dict(model, adapter_name, include_backbone), path)


def _fault(value: object) -> str:
    """What keeps a weight from being copied; empty if nothing does."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}, no tensor"
    if value.is_meta:
        return "no data, on the meta device"
    if value.layout != torch.strided:
        return f"sparse, {value.layout}"
    if value.is_quantized or not value.dtype.is_floating_point or value.dtype.itemsize < 2:
        return f"of type {value.dtype}"
    return ""


def _join(tensors: list[Tensor]) -> Tensor:
    return torch.cat(tensors) if len(tensors) > 1 else tensors[0]


def _read(source: str | Path | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read tensors by name from a file or a mapping, without the prefix of a detector's or segmenter's backbone."""
    if isinstance(source, Mapping):
        state_dict: Mapping = source
    elif str(source).endswith(".safetensors"):
        state_dict = load_file(source)
    else:
        state_dict = torch.load(source, map_location="cpu", weights_only=True)
    for wrapper in ("state_dict", "model"):
        if isinstance(state_dict.get(wrapper), Mapping):
            state_dict = state_dict[wrapper]
    if any(key.startswith("backbone.") for key in state_dict):
        # the rest, neck and heads, is no part of the adapted Swin
        state_dict = {key.removeprefix("backbone."): v for key, v in state_dict.items() if key.startswith("backbone.")}
    return dict(state_dict)


def _official_names(model: nn.Module, adapter_name: str) -> dict[str, list[Tensor]]:
    """Map official names to the tensors of `model` they stand for; three for `qkv`, one otherwise.

    Raises:
        ValueError: If the model has no Swin with such an adapter, or the adapter is not of the official design.
    """
    swin, outer = _find_adapted_swin(model, adapter_name)
    adapter_pattern = re.compile(ADAPTER_PATTERN.format(re.escape(adapter_name)))
    names: dict[str, list[Tensor]] = {}
    for name, tensor in swin.named_parameters():
        if match := adapter_pattern.fullmatch(name):
            stage, block, position, inner = match.groups()
            key = f"layers.{stage}.blocks.{block}.{ADAPTER_MODULES[position]}.{ADAPTER_NAMES[inner]}"
            names[key] = [tensor]
        elif ".mona." not in name:
            names.setdefault(_backbone_name(name), []).append(tensor)
    for stage, norm in getattr(outer, "hidden_states_norms", {}).items():
        for name, tensor in norm.named_parameters():
            names[f"norm{int(stage.removeprefix('stage')) - 1}.{name}"] = [tensor]
    return names


def _backbone_name(name: str) -> str:
    for pattern, replacement in BACKBONE_PATTERNS:
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    raise ValueError(f"The Swin's parameter '{name}' has no official name; the official Swin has no such part.")


def _find_adapted_swin(model: nn.Module, adapter_name: str) -> tuple[nn.Module, nn.Module]:
    """Return the Swin (the module with `embeddings` and `encoder`) whose blocks hold the adapter, and its parent."""
    holders = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, MonaLayer) and adapter_name in module.mona_attention and adapter_name in module.mona_mlp
    ]
    for name, layer in holders:
        for mona in (layer.mona_attention[adapter_name], layer.mona_mlp[adapter_name]):
            _check_official_design(mona, adapter_name)  # type: ignore[arg-type]
        chain = list(ancestors(model, name))
        for swin, outer in zip(chain, [*chain[1:], chain[-1]], strict=True):
            if hasattr(swin, "embeddings") and hasattr(swin, "encoder"):
                return swin, outer
    raise ValueError(
        f"{type(model).__name__} holds no transformers Swin with a Mona adapter '{adapter_name}' at both positions; "
        "add one first, for example with get_peft_model(model, MonaConfig())."
    )


def _check_official_design(mona: Mona, adapter_name: str) -> None:
    same_parameters = set(dict(mona.named_parameters())) == set(ADAPTER_NAMES)
    same_norm = same_parameters and mona.norm.norm_scale.shape == (mona.dim,) and type(mona.norm.norm) is nn.LayerNorm
    if not same_norm or mona.follows_stream:
        raise ValueError(
            f"Adapter '{adapter_name}' is not of the official design (variant='final', three kernels, "
            "scale='channel', conv_bias=True, norm='layer', output_scale='none'), all that the official names cover."
        )
