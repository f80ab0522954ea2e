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

import functools
import threading
import types
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .checkpointing import (
    CHECKPOINT_WRAPS_CALL,
    outermost_checkpointed,
    register_before_checkpoint,
    require_input_grad,
)
from .layout import Delta, Layout, TokenLayout
from .modules import copies_at, has_submodule, remove_hooks, stream_width
from .recorders import remove_recorders
from .rows import apply_layout, group_rows, on_grid
from .source import LayoutSource
from .spec import BlockSpec


class ResidualAdapter(Protocol):
    """What a tuner layer offers the block it is a child of. Every method may return None for "nothing to add"."""

    #: Whether the layer has `beside_attention` and `beside_mlp_normed`: the norms' outputs are seen only if one has.
    reads_norms: bool

    def is_idle(self) -> bool:
        """Whether the layer adds nothing at all, so that the block may run as its base class does."""

    def after_attention(self, hidden_states: Tensor, layout: TokenLayout) -> Tensor | None:
        """What to add to the stream after attention, of which the MLP branch sees the sum."""

    def beside_mlp(self, hidden_states: Tensor, layout: TokenLayout) -> Tensor | None:
        """What to add to the block's result beside the MLP branch, computed from the same input as that branch."""

    def after_mlp(self, hidden_states: Tensor, layout: TokenLayout) -> Tensor | None:
        """What to add to the block's result, computed from it."""

    def beside_attention(self, normed: Tensor, layout: TokenLayout) -> Tensor | None:
        """What to add to the stream after attention, computed from the norm's output that attention reads."""

    def beside_mlp_normed(self, normed: Tensor, layout: TokenLayout) -> Tensor | None:
        """What to add to the block's result beside the MLP branch, from the norm's output that the MLP reads."""

    def stream_after_attention(
        self, hidden_states: Tensor, layout: TokenLayout
    ) -> tuple[Tensor, Tensor | None] | None:
        """The stream with `after_attention` added and that delta, if both can be had at once for less."""

    def stream_after_mlp(self, hidden_states: Tensor, extra: Tensor | None, layout: TokenLayout) -> Tensor | None:
        """`hidden_states + extra` with the `after_mlp` of that sum added, if it can be had at once for less."""


# The stack of blocks the current thread is running. torch.compile cannot trace a threading.local; while it traces, a
# plain attribute of the block carries the same.
_thread = threading.local()


@dataclass
class Tap:
    """What a tapped block knows of itself.

    Args:
        name (`str`): The block's name in its model, for messages.
        spec (`BlockSpec`): Its row of the table.
        source (`LayoutSource`): Finds the token layout of a call.
        adapters (`list[str]`): Names of the block's children that adapt its residual stream.
        handles (`list`): Further hooks to remove at the end.
        watches_norms (`bool`): Whether there are hooks on the norms, as long as an adapter reads them.
        required (`list[str]`): Paths of the hooked modules that every forward of the block has to call, once.
    """

    name: str
    spec: BlockSpec
    source: LayoutSource
    adapters: list[str] = field(default_factory=list)
    handles: list[Any] = field(default_factory=list)
    watches_norms: bool = False
    required: list[str] = field(default_factory=list)

    def layout(self, args: tuple, kwargs: dict[str, Any]) -> Layout:
        """Find the token layout of a call of the block with these arguments; see `LayoutSource`."""
        hidden_states = args[0] if args else next(iter(kwargs.values()))
        return group_rows(self.source.layout(args, kwargs), hidden_states.shape[0])


class _Call:
    """One running forward of a tapped block: what its hooks need and what they leave for later ones and the end."""

    def __init__(self, adapters: list[Any], layout: Layout) -> None:
        self.adapters = adapters
        self.layout = layout
        self.reached: list[str] = []
        self.beside_attention: Tensor | None = None
        self.delta: Tensor | None = None

    def total(self, deltas: list[Delta], hidden_states: Tensor) -> Tensor | None:
        """The sum of what these methods, one of each adapter, give for the tokens."""
        return _total([apply_layout(delta, hidden_states, self.layout) for delta in deltas])

    def enter(self, hidden_states: Tensor) -> tuple[Tensor, Tensor | None]:
        """Add what the adapters have for the stream after attention: the new stream, and what was added to it."""
        if len(self.adapters) == 1 and isinstance(self.layout, TokenLayout):
            fused = self.adapters[0].stream_after_attention(hidden_states, self.layout)
            if fused is not None:
                return fused
        # The norm before attention may see an image where the MLP branch sees a sequence.
        beside = None if self.beside_attention is None else self.beside_attention.reshape(hidden_states.shape)
        delta = _total([beside, self.total([a.after_attention for a in self.adapters], hidden_states)])
        return (hidden_states if delta is None else hidden_states + delta), delta

    def leave(self, hidden_states: Tensor) -> Tensor:
        """Add what was added before the MLP to the block's result, and what the adapters have for that."""
        # The MLP branch may see the image as a sequence.
        extra = None if self.delta is None else self.delta.reshape(hidden_states.shape)
        if len(self.adapters) == 1 and isinstance(self.layout, TokenLayout):
            fused = self.adapters[0].stream_after_mlp(hidden_states, extra, self.layout)
            if fused is not None:
                return fused
        if extra is not None:
            hidden_states = hidden_states + extra
        delta = self.total([a.after_mlp for a in self.adapters], hidden_states)
        return hidden_states if delta is None else hidden_states + delta


def traced_by(args: tuple, kwargs: dict[str, Any]) -> Any:
    """The tracer of torch.fx whose proxies are among the arguments, or None."""
    return next((value.tracer for value in (*args, *kwargs.values()) if isinstance(value, torch.fx.Proxy)), None)


class _Hook:
    """A hook on a module of a block that calls a method of the block.

    A copy of the model calls the copied block; a copy of the module alone, as PEFT makes of `modules_to_save`, the
    same block.

    Args:
        block (`TappedBlock`): The block.
        method (`str`): Name of the method.
    """

    def __init__(self, block: Any, method: str) -> None:
        self.block = block
        self.method = method

    def __call__(self, module: nn.Module, *args: Any) -> Any:
        return getattr(self.block, self.method)(module, *args)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hook:
        return _Hook(memo.get(id(self.block), self.block), self.method)


def _running_call() -> _Call | None:
    calls = getattr(_thread, "calls", None)
    return calls[-1] if calls else None


def _total(deltas: list[Tensor | None]) -> Tensor | None:
    present = [delta for delta in deltas if delta is not None]
    return functools.reduce(torch.add, present) if present else None


class TappedBlock:
    """Mixin that `tap` puts before the class of a block; see the head of this file.

    `__call__` finds the layout of the call's tokens and hands it to `forward`, which runs the block's own forward with
    the hooks of `tap` acting and adds what is due to the first item of its result. Without active adapters, or with
    proxies of torch.fx for arguments, the block's own forward or a single node of the graph is all there is. A block
    that does not call each hooked module exactly once raises `RuntimeError`.
    """

    _tap: Tap
    _tap_call: _Call | None

    def _tap_adapters(self) -> list[Any]:
        adapters = [getattr(self, name) for name in self._tap.adapters]
        return [adapter for adapter in adapters if not adapter.is_idle()]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if CHECKPOINT_WRAPS_CALL and self.__dict__.get("_before_checkpoint"):
            args = require_input_grad(self, args) or args  # type: ignore[arg-type]
        if traced_by(args, kwargs):
            return super().__call__(*args, **kwargs)  # type: ignore[misc]
        hidden_states = args[0] if args else next(iter(kwargs.values()))
        # Gradient checkpointing of transformers recomputes `forward` alone, so the layout is found here and travels as
        # an argument; where others checkpoint the whole call, it is found by the input.
        if "tap_layout" not in kwargs:
            if self._tap_adapters():
                kwargs["tap_layout"] = self._tap.layout(args, kwargs)
            else:
                self._tap.source.pass_by()
        output = super().__call__(*args, **kwargs)  # type: ignore[misc]
        self._tap.source.follow(hidden_states, output)
        return output

    def forward(self, *args: Any, tap_layout: Layout | None = None, **kwargs: Any) -> Any:
        tracer = traced_by(args, kwargs)
        if tracer is not None:  # what an adapter does depends on the call, so for torch.fx the block is a leaf
            return tracer.create_proxy("call_module", tracer.path_of_module(self), args, kwargs)
        adapters = self._tap_adapters()
        if not adapters:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        layout = tap_layout if tap_layout is not None else self._tap.layout(args, kwargs)
        call = _Call(adapters, layout)
        output = self._tap_run(call, args, kwargs)
        hidden_states = output[0] if isinstance(output, tuple) else output
        for path in self._tap.required:
            if path not in call.reached:
                raise RuntimeError(
                    f"Block '{self._tap.name}' ({self._tap.spec.block}) ran without calling its '{path}', so its "
                    "adapters could not act. This block cannot be adapted here."
                )
        hidden_states = self._tap_exit(call, hidden_states)
        return (hidden_states, *output[1:]) if isinstance(output, tuple) else hidden_states

    def _tap_exit(self, call: _Call, hidden_states: Tensor) -> Tensor:
        """Add to the block's result what the adapters added before its MLP, and what they have for the result."""
        channels_first = self._tap.spec.grid == "channels_first"
        if channels_first:
            hidden_states = hidden_states.permute(0, 2, 3, 1)  # (B, H, W, C), as the MLP branch sees it
        if not self._tap.spec.entry:  # a convolution may have another stride than 1
            call.layout = on_grid(call.layout, hidden_states.shape[1], hidden_states.shape[2])
        hidden_states = call.leave(hidden_states)
        return hidden_states.permute(0, 3, 1, 2) if channels_first else hidden_states

    def _tap_run(self, call: _Call, args: tuple, kwargs: dict[str, Any]) -> Any:
        if torch.compiler.is_compiling():
            self._tap_call = call
            output = super().forward(*args, **kwargs)  # type: ignore[misc]
            self._tap_call = None
            return output
        if not hasattr(_thread, "calls"):
            _thread.calls = []
        _thread.calls.append(call)
        try:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        finally:
            _thread.calls.pop()

    def _tap_entry(self, module: nn.Module, args: tuple) -> tuple | None:
        """Pre-hook of the entry module: add what the adapters have for the stream after attention."""
        call = self._tap_reach(self._tap.spec.entry)
        if call is None:
            return None
        hidden_states, delta = call.enter(args[0])
        parallel = call.total([a.beside_mlp for a in call.adapters], hidden_states)
        call.delta = _total([delta, parallel])
        return (hidden_states, *args[1:])

    def _tap_attention_norm(self, module: nn.Module, args: tuple, normed: Tensor) -> None:
        """Hook of the norm before attention: compute what the adapters have beside attention."""
        call = self._tap_reach(self._tap.spec.attention_norm)
        if call is not None:
            call.beside_attention = call.total([a.beside_attention for a in call.adapters], normed)

    def _tap_mlp_norm(self, module: nn.Module, args: tuple, normed: Tensor) -> None:
        """Hook of the entry module, a norm: compute what the adapters have beside the MLP."""
        call = self._tap_running(self._tap.spec.entry)
        if call is not None:
            call.delta = _total([call.delta, call.total([a.beside_mlp_normed for a in call.adapters], normed)])

    def _tap_running(self, path: str) -> _Call | None:
        """The forward of this block that calls the module at `path`; None without active adapters."""
        if not self._tap_adapters():
            return None
        call = self._tap_call if torch.compiler.is_compiling() else _running_call()
        if call is None:
            raise RuntimeError(
                f"'{path}' of the adapted block '{self._tap.name}' was called outside the block's forward, where its "
                "adapters cannot act. Call the block, or disable the adapters first."
            )
        return call

    def _tap_reach(self, path: str) -> _Call | None:
        """As [`_tap_running`], and note the call, of which there must be one alone."""
        call = self._tap_running(path)
        if call is None:
            return None
        if path in call.reached:
            raise RuntimeError(
                f"Block '{self._tap.name}' ({self._tap.spec.block}) called its '{path}' more than once in one "
                "forward, so its residual stream is split among the calls. Switch off what splits it, such as a "
                "chunked feed-forward."
            )
        call.reached.append(path)
        return call

    def __reduce_ex__(self, protocol: Any) -> tuple:
        # The class is made at run time, so pickling and copying name the class it was made from.
        return _new_tapped, (_base_class(type(self)),), self.__getstate__()


def _base_class(cls: Any) -> Any:
    """The class a tapped class was made from; the class itself if it is not tapped."""
    mro = cls.__mro__
    return mro[mro.index(TappedBlock) + 1] if TappedBlock in mro else cls


def _new_tapped(base: Any) -> Any:
    cls = _tapped_class(base)
    return cls.__new__(cls)


@functools.cache
def _tapped_class(base: Any) -> type[nn.Module]:
    return type(base.__name__, (TappedBlock, base), {"__module__": base.__module__, "__doc__": base.__doc__})


def tap(model: nn.Module, name: str, spec: BlockSpec, adapter: str, source: LayoutSource | None = None) -> None:
    """Let the child `adapter` of block `name` act on the block's residual stream.

    Args:
        model (`nn.Module`): The model that contains the block.
        name (`str`): The block's name in it.
        spec (`BlockSpec`): The block's row of the table.
        adapter (`str`): Name of the block's child, a `ResidualAdapter`.
        source (`LayoutSource`, *optional*): What `check_tappable` found; found again if left out.
    """
    block: Any = model.get_submodule(name)
    if not isinstance(block, TappedBlock):
        _install(model, name, block, source or LayoutSource(model, name, spec, stream_width(block, spec)))
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


def _untap_block(block: Any, adapter: str) -> None:
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
    tapped = type(block)
    block.__class__ = _base_class(tapped)
    _rebind_forward(block, tapped)


def _remove_hooks(block: nn.Module, *methods: str) -> None:
    for module in block.modules():
        remove_hooks(module, lambda hook: isinstance(hook, _Hook) and hook.block is block and hook.method in methods)


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
    return None if isinstance(block, TappedBlock) else LayoutSource(model, name, spec, stream_width(block, spec))


def _install(model: nn.Module, name: str, block: Any, source: LayoutSource) -> None:
    spec = source.spec
    tap = Tap(name, spec, source)
    source.start()
    base: Any = type(block)
    block.__class__ = _tapped_class(base)
    block._tap = tap
    block._tap_call = None
    if spec.entry:
        tap.required.append(spec.entry)
        for entry in copies_at(block, spec.entry):
            entry.register_forward_pre_hook(_Hook(block, "_tap_entry"))
    tap.handles.append(register_before_checkpoint(outermost_checkpointed(model, name)))
    _rebind_forward(block, base)


def _watch_norms(block: Any) -> None:
    tap = block._tap
    for norm in copies_at(block, tap.spec.attention_norm):
        norm.register_forward_hook(_Hook(block, "_tap_attention_norm"))
    for entry in copies_at(block, tap.spec.entry):
        entry.register_forward_hook(_Hook(block, "_tap_mlp_norm"))
    tap.watches_norms = True
    tap.required.append(tap.spec.attention_norm)


def _rebind_forward(block: nn.Module, previous: type[nn.Module]) -> None:
    """Let a forward of the previous class that others keep on the instance be that of the present one.

    accelerate replaces it by its own, which calls `_old_forward`; releases of transformers before 5 leave a bound
    method behind after they recorded hidden states.
    """
    for name in ("_old_forward", "forward"):
        method = block.__dict__.get(name)
        if isinstance(method, types.MethodType) and method.__func__ is previous.forward:
            setattr(block, name, types.MethodType(type(block).forward, block))
