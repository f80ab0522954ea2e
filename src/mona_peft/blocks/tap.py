"""How an adapter reaches the residual stream of a transformer block.

In transformers and timm the residual additions happen inside the block's forward, so no module's output is the stream
after attention, x1. One identity reaches it without touching that code. With `entry` the first module of the MLP
branch, whose input is x1,

    (x1 + d) + MLP(entry(x1 + d)) = [x1 + MLP(entry(x1 + d))] + d

so a pre-hook on `entry` adds d to what `entry` sees and the block adds d once more to its own result. An adapter may
compute d from x1 (`after_attention`) or from what the norm before attention gave (`beside_attention`). What it adds to
the block's result alone it computes from x1 + d (`beside_mlp`), from what `entry` gave, if that is a norm
(`beside_mlp_normed`), or from the result itself (`after_mlp`). A convolutional block has no `entry`; only what is
computed from its result (`after_mlp`) is added there.

A block is extended in place, by giving the instance a subclass of its class, as `torch.nn.utils.parametrize` does:
it stays an instance of its class (hidden-state recording and FSDP find it), keeps its parameter names, and gradient
checkpointing, which wraps the outermost `forward`, covers the adapters. For torch.fx an adapted block is a leaf.
"""

from __future__ import annotations

import types

from torch import nn

from .checkpointing import outermost_checkpointed, register_before_checkpoint
from .modules import copies_at, has_submodule, remove_hooks, stream_width
from .recorders import remove_recorders
from .source import LayoutSource
from .spec import BlockSpec
from .tapped import Hook, Tap, TappedBlock, base_class, tapped_class


def tap(model: nn.Module, name: str, spec: BlockSpec, adapter: str, source: LayoutSource | None = None) -> None:
    """Let the child `adapter` of block `name` act on the block's residual stream.

    Args:
        model (`nn.Module`): The model that contains the block.
        name (`str`): The block's name in it.
        spec (`BlockSpec`): The block's row of the table.
        adapter (`str`): Name of the block's child, a `ResidualAdapter`.
        source (`LayoutSource`, *optional*): What `check_tappable` found; found again if left out.
    """
    block = model.get_submodule(name)
    if not isinstance(block, TappedBlock):
        block = _install(model, name, block, source or LayoutSource(model, name, spec, stream_width(block, spec)))
    if adapter not in block._tap.adapters:
        block._tap.adapters.append(adapter)
    if getattr(block, adapter).reads_norms and not block._tap.watches_norms:
        _watch_norms(block)


def untap(model: nn.Module, adapter: str) -> None:
    """Take back `tap` in all blocks of `model`: remove the child `adapter`.

    With its last adapter gone a block is of its own class again.
    """
    for block in [module for module in model.modules() if isinstance(module, TappedBlock)]:
        if adapter in block._tap.adapters:
            _untap_block(block, adapter)
    blocks = [module for module in model.modules() if isinstance(module, TappedBlock)]
    remove_recorders(model, [recorder for block in blocks for recorder in block._tap.source.recorders])


def hand_over_taps(module: nn.Module, successor: nn.Module) -> None:
    """Let hooks of adapted blocks on `module` be those of what takes its place: its output is what counts."""
    for hook in [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, Hook)]:
        successor.register_forward_pre_hook(hook)
    for hook in [hook for hook in module._forward_hooks.values() if isinstance(hook, Hook)]:
        successor.register_forward_hook(hook)
    remove_hooks(module, lambda hook: isinstance(hook, Hook))


def _untap_block(block: TappedBlock, adapter: str) -> None:
    tap = block._tap
    tap.adapters.remove(adapter)
    delattr(block, adapter)
    if tap.watches_norms and not any(getattr(block, name).reads_norms for name in tap.adapters):
        _remove_hooks(block, "_tap_attention_norm", "_tap_mlp_norm")
        tap.watches_norms = False
        tap.required = [tap.spec.entry]
    if tap.adapters:
        return
    _remove_hooks(block, "_tap_entry")
    for handle in tap.handles:
        handle.remove()
    del block._tap, block._tap_call
    tapped: type[nn.Module] = type(block)
    block.__class__ = base_class(tapped)  # type: ignore[assignment]
    _rebind_forward(block, tapped)


def _remove_hooks(block: nn.Module, *methods: str) -> None:
    for module in block.modules():
        remove_hooks(module, lambda hook: isinstance(hook, Hook) and hook.block is block and hook.method in methods)


def check_tappable(model: nn.Module, name: str, spec: BlockSpec, reads_norms: bool = False) -> LayoutSource | None:
    """Raise what `tap` would raise for block `name`, without changing anything.

    Args:
        model (`nn.Module`): The model that contains the block.
        name (`str`): The block's name in it.
        spec (`BlockSpec`): The block's row of the table.
        reads_norms (`bool`): Whether the adapter reads what the branches read, the outputs of the block's norms.

    Returns:
        `LayoutSource`: Finds the block's token layouts, for `tap`; None if the block is adapted and has one.

    Raises:
        ValueError: If the block has no such entry, or its grid has no source, or it has no norms before its branches
            that the adapter could read.
    """
    block = model.get_submodule(name)
    if spec.refuses(block):
        raise ValueError(
            f"Block '{name}' ({type(block).__name__}) cannot be adapted exactly: {spec.refusal}. Leave such blocks "
            "out with `exclude_modules`, or choose another model."
        )
    if not has_submodule(block, spec.entry):  # an empty path is the block itself
        raise ValueError(
            f"Block '{name}' ({type(block).__name__}) has no module '{spec.entry}' through which its residual stream "
            f"could be reached; it has {[child for child, _ in block.named_children()]}."
        )
    norm = spec.attention_norm
    if reads_norms and not (norm and has_submodule(block, norm)):
        raise ValueError(
            f"Block '{name}' ({type(block).__name__}) has no norms before its branches that the adapter could read: "
            f"its MLP branch starts with '{spec.entry}', and {f'no module {norm!r}' if norm else 'no norm'} is known "
            "to stand before its attention. Choose another method; or, if the block has such norms under other names, "
            "give them in a `BlockSpec` as `norm` and `entry`."
        )
    if reads_norms:
        _check_norm_width(block, name, spec)
    return None if isinstance(block, TappedBlock) else LayoutSource(model, name, spec, stream_width(block, spec))


def _check_norm_width(block: nn.Module, name: str, spec: BlockSpec) -> None:
    """Refuse a block whose attention reads fewer channels, or more, than its stream has afterwards.

    Raises:
        ValueError: If it is one.
    """
    read = next((p.shape[-1] for p in block.get_submodule(spec.attention_norm).parameters() if p.dim()), None)
    width = stream_width(block, spec)
    if read not in (None, width):
        raise ValueError(
            f"Block '{name}' ({type(block).__name__}) has no norms before its branches that the adapter could read: "
            f"its attention reads {read} channels and gives {width}. Choose another method, or leave such blocks out "
            "with `exclude_modules`."
        )


def _install(model: nn.Module, name: str, block: nn.Module, source: LayoutSource) -> TappedBlock:
    spec, base = source.spec, block.__class__
    source.start()
    block.__class__ = tapped_class(base)  # type: ignore[arg-type]
    assert isinstance(block, TappedBlock)
    block._tap = tap = Tap(name, spec, source, required=[spec.entry] if spec.entry else [])
    block._tap_call = None
    for path in tap.required:
        for entry in copies_at(block, path):
            entry.register_forward_pre_hook(Hook(block, "_tap_entry"))
    tap.handles.append(register_before_checkpoint(outermost_checkpointed(model, name)))
    _rebind_forward(block, base)
    return block


def _watch_norms(block: TappedBlock) -> None:
    tap = block._tap
    for norm in copies_at(block, tap.spec.attention_norm):
        norm.register_forward_hook(Hook(block, "_tap_attention_norm"))
    for entry in copies_at(block, tap.spec.entry):
        entry.register_forward_hook(Hook(block, "_tap_mlp_norm"))
    tap.watches_norms = True
    tap.required.append(tap.spec.attention_norm)


def _rebind_forward(block: nn.Module, previous: type[nn.Module]) -> None:
    """Let a forward of the previous class that others keep on the instance be that of the present one.

    accelerate replaces it by its own, which calls `_old_forward`; transformers 5.0 leaves a bound method behind after
    it recorded hidden states.
    """
    for name in ("_old_forward", "forward"):
        method = block.__dict__.get(name)
        if isinstance(method, types.MethodType) and method.__func__ is previous.forward:
            setattr(block, name, types.MethodType(type(block).forward, block))
