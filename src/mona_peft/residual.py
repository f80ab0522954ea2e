"""How an adapter reaches the residual stream of a transformer block.

In transformers and timm the residual additions happen inside the block's forward, so no module's output is the stream
after attention, x1. One identity reaches it without touching that code. With `entry` the first module of the MLP
branch, whose input is x1,

    (x1 + d) + MLP(entry(x1 + d)) = [x1 + MLP(entry(x1 + d))] + d

so a pre-hook on `entry` adds d to what `entry` sees and the block adds d once more to its own result.

A block is extended in place, by giving the instance a subclass of its class, as `torch.nn.utils.parametrize` does:
it stays an instance of its class (hidden-state recording and FSDP find it), keeps its parameter names, and gradient
checkpointing, which wraps the outermost `forward`, covers the adapters.
"""

from __future__ import annotations

import functools
import inspect
import threading
import types
import weakref
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from .backbones import BlockSpec, ancestors, count_tokens, find_patch_embedding

Grid = tuple[int, int]


class TokenLayout(NamedTuple):
    """How the tokens of one block call are laid out.

    Args:
        height (`int`): Rows of the patch grid.
        width (`int`): Columns of the patch grid.
        prefix (`int`): Tokens before the patch tokens.
        suffix (`int`): Tokens after the patch tokens.
    """

    height: int
    width: int
    prefix: int = 0
    suffix: int = 0


class ResidualAdapter(Protocol):
    """What a tuner layer offers the block it is a child of. Every method may return None for "nothing to add"."""

    def is_idle(self) -> bool:
        """Whether the layer adds nothing at all, so that the block may run as its base class does."""

    def entry_delta(self, hidden_states: Tensor, layout: TokenLayout) -> Tensor | None:
        """What to add to the stream after attention, of which the MLP branch sees the sum."""

    def parallel_delta(self, hidden_states: Tensor, layout: TokenLayout) -> Tensor | None:
        """What to add to the block's result beside the MLP branch, computed from the same input as that branch."""

    def exit_delta(self, hidden_states: Tensor, layout: TokenLayout) -> Tensor | None:
        """What to add to the block's result, computed from it."""


# What the current thread is running: the stack of blocks, and the grid each patch embedding last gave.
# torch.compile cannot trace a threading.local; while it traces, plain attributes carry the same values.
_thread = threading.local()


class GridRecorder:
    """Remembers the grid that a patch embedding's convolution last gave in this thread.

    Args:
        convolution (`nn.Conv2d`): The patch embedding's convolution.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        self.users = 0
        self.latest: Grid | None = None
        self.handle = convolution.register_forward_hook(self.record)

    def record(self, module: nn.Module, args: Any, output: Tensor) -> None:
        grid = (output.shape[-2], output.shape[-1])
        self.latest = grid
        if not torch.compiler.is_compiling():
            if not hasattr(_thread, "grids"):
                _thread.grids = weakref.WeakKeyDictionary()
            _thread.grids[self] = grid

    def grid(self) -> Grid | None:
        if torch.compiler.is_compiling():
            return self.latest
        return getattr(_thread, "grids", {}).get(self)


@dataclass
class Tap:
    """What a tapped block knows of itself.

    Args:
        name (`str`): The block's name in its model, for messages.
        spec (`BlockSpec`): Its row of the table.
        prefix (`int`): Tokens before the patch tokens.
        suffix (`int`): Tokens after the patch tokens.
        arguments (`list[tuple[str, int]]`): Names and places of the forward arguments that hold the grid.
        recorder (`GridRecorder`, *optional*): Set when the grid comes from the patch embedding.
        adapters (`list[str]`): Names of the block's children that adapt its residual stream.
        handles (`list`): The hooks to take away at the end.
    """

    name: str
    spec: BlockSpec
    prefix: int
    suffix: int
    arguments: list[tuple[str, int]] = field(default_factory=list)
    recorder: GridRecorder | None = None
    patch_embedding: nn.Module | None = None
    adapters: list[str] = field(default_factory=list)
    handles: list[Any] = field(default_factory=list)

    def layout(self, args: tuple, kwargs: dict[str, Any]) -> TokenLayout:
        """Find the token layout of a call of the block with these arguments.

        Raises:
            ValueError: If the grid is unknown or does not fit the number of tokens.
        """
        hidden_states = args[0] if args else next(iter(kwargs.values()))
        if self.spec.grid == "channels_last":
            return TokenLayout(hidden_states.shape[1], hidden_states.shape[2])
        if self.recorder is not None:
            grid = self.recorder.grid()
        else:
            values = [args[place] if place < len(args) else kwargs.get(name) for name, place in self.arguments]
            grid = values[0] if len(values) == 1 else (None if None in values else tuple(values))
        if grid is None:
            raise ValueError(
                f"The token grid of block '{self.name}' ({self.spec.block}) is unknown: it comes from "
                f"'{self.spec.grid}', which gave nothing. Run the block inside its model, from the pixels."
            )
        height, width = grid
        tokens = hidden_states.shape[1]
        if tokens != self.prefix + height * width + self.suffix:
            raise ValueError(
                f"Block '{self.name}' ({self.spec.block}) received {tokens} tokens, but a grid of {height} x {width} "
                f"with {self.prefix} tokens before and {self.suffix} after makes "
                f"{self.prefix + height * width + self.suffix}. Tokens that were dropped, shuffled or added between "
                "the patch embedding and the block cannot be laid out on the grid."
            )
        return TokenLayout(height, width, self.prefix, self.suffix)


class _Call:
    """One running forward of a tapped block: what its entry hook needs and what it leaves for the block's end."""

    def __init__(self, adapters: list[Any], layout: TokenLayout) -> None:
        self.adapters = adapters
        self.layout = layout
        self.entered = False
        self.delta: Tensor | None = None


def _running_call() -> _Call | None:
    calls = getattr(_thread, "calls", None)
    return calls[-1] if calls else None


def _total(deltas: list[Tensor | None]) -> Tensor | None:
    present = [delta for delta in deltas if delta is not None]
    return functools.reduce(torch.add, present) if present else None


class TappedBlock:
    """Mixin that `tap` puts before the class of a block; see the head of this file."""

    _tap: Tap
    _tap_call: _Call | None

    def _tap_adapters(self) -> list[Any]:
        adapters = [getattr(self, name) for name in self._tap.adapters]
        return [adapter for adapter in adapters if not adapter.is_idle()]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # Gradient checkpointing recomputes `forward` alone. A grid remembered on the side would by then be that of
        # the latest image, so it is found here and travels as an argument.
        if "tap_layout" not in kwargs and self._tap_adapters():
            kwargs["tap_layout"] = self._tap.layout(args, kwargs)
        return super().__call__(*args, **kwargs)  # type: ignore[misc]

    def forward(self, *args: Any, tap_layout: TokenLayout | None = None, **kwargs: Any) -> Any:
        adapters = self._tap_adapters()
        if not adapters:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        layout = tap_layout if tap_layout is not None else self._tap.layout(args, kwargs)
        call = _Call(adapters, layout)
        output = self._tap_run(call, args, kwargs)
        hidden_states = output[0] if isinstance(output, tuple) else output
        if not call.entered:
            raise RuntimeError(
                f"Block '{self._tap.name}' ({self._tap.spec.block}) ran without calling its '{self._tap.spec.entry}', "
                "so its adapters could not act. This block cannot be adapted here."
            )
        if call.delta is not None:
            hidden_states = hidden_states + call.delta
        delta = _total([adapter.exit_delta(hidden_states, layout) for adapter in adapters])
        if delta is not None:
            hidden_states = hidden_states + delta
        return (hidden_states, *output[1:]) if isinstance(output, tuple) else hidden_states

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
        if not self._tap_adapters():
            return None
        call = self._tap_call if torch.compiler.is_compiling() else _running_call()
        if call is None:
            raise RuntimeError(
                f"'{self._tap.spec.entry}' of the adapted block '{self._tap.name}' was called outside the block's "
                "forward, where its adapters cannot act. Call the block, or disable the adapters first."
            )
        hidden_states, layout = args[0], call.layout
        call.entered = True
        delta = _total([adapter.entry_delta(hidden_states, layout) for adapter in call.adapters])
        if delta is not None:
            hidden_states = hidden_states + delta
        parallel = _total([adapter.parallel_delta(hidden_states, layout) for adapter in call.adapters])
        call.delta = _total([delta, parallel])
        return (hidden_states, *args[1:])

    def __reduce_ex__(self, protocol: Any) -> tuple:
        # The class is made at run time, so pickling and copying name the class it was made from.
        return _new_tapped, (_base_class(type(self)),), self.__getstate__()  # type: ignore[attr-defined]


def _base_class(cls: type) -> type:
    """The class a tapped class was made from; the class itself if it is not tapped."""
    mro = cls.__mro__
    return mro[mro.index(TappedBlock) + 1] if TappedBlock in mro else cls


def _new_tapped(base: type[nn.Module]) -> nn.Module:
    cls = _tapped_class(base)
    return cls.__new__(cls)


@functools.cache
def _tapped_class(base: type[nn.Module]) -> type[nn.Module]:
    return type(base.__name__, (TappedBlock, base), {"__module__": base.__module__, "__doc__": base.__doc__})


def tap(model: nn.Module, name: str, spec: BlockSpec, adapter: str) -> None:
    """Let the child `adapter` of block `name` act on the block's residual stream.

    Args:
        model (`nn.Module`): The model that contains the block.
        name (`str`): The block's name in it.
        spec (`BlockSpec`): The block's row of the table.
        adapter (`str`): Name of the block's child, a `ResidualAdapter`.
    """
    block = model.get_submodule(name)
    if not isinstance(block, TappedBlock):
        _install(model, name, block, spec)
    if adapter not in block._tap.adapters:  # type: ignore[attr-defined]
        block._tap.adapters.append(adapter)  # type: ignore[attr-defined]


def untap(block: nn.Module, adapter: str) -> None:
    """Take back `tap`: remove the child `adapter`; with the last one gone the block is of its own class again."""
    assert isinstance(block, TappedBlock)
    block._tap.adapters.remove(adapter)
    delattr(block, adapter)
    if block._tap.adapters:
        return
    for handle in block._tap.handles:
        handle.remove()
    recorder = block._tap.recorder
    if recorder is not None:
        recorder.users -= 1
        if recorder.users == 0:
            recorder.handle.remove()
            del block._tap.patch_embedding._tap_recorder  # type: ignore[union-attr]
    del block._tap, block._tap_call
    block.__class__ = _base_class(type(block))
    _rebind_forward(block)


def check_tappable(model: nn.Module, name: str, spec: BlockSpec) -> None:
    """Raise what `tap` would raise for block `name`, without changing anything.

    Raises:
        ValueError: If the block has no such entry, or its grid has no source.
    """
    block = model.get_submodule(name)
    if not _has_submodule(block, spec.entry):
        raise ValueError(
            f"Block '{name}' ({type(block).__name__}) has no module '{spec.entry}' through which its residual stream "
            f"could be reached; it has {[child for child, _ in block.named_children()]}."
        )
    _count_both(model, name, spec)
    if spec.grid == "patch_embed":
        if find_patch_embedding(model, name) is None:
            raise ValueError(
                f"No convolution that cuts the image into patches was found around block '{name}' "
                f"({type(block).__name__}), so the height and width of its tokens cannot be known. Adapt the model "
                "that contains the patch embedding, not a part without it."
            )
    elif spec.grid != "channels_last":
        _argument_places(block, name, spec)


def _install(model: nn.Module, name: str, block: nn.Module, spec: BlockSpec) -> None:
    prefix, suffix = _count_both(model, name, spec)
    tap = Tap(name, spec, prefix, suffix)
    if spec.grid == "patch_embed":
        convolution = find_patch_embedding(model, name)
        assert convolution is not None
        if not hasattr(convolution, "_tap_recorder"):
            convolution._tap_recorder = GridRecorder(convolution)  # type: ignore[assignment]
        tap.patch_embedding = convolution
        tap.recorder = convolution._tap_recorder  # type: ignore[assignment]
        tap.recorder.users += 1  # type: ignore[union-attr]
    elif spec.grid != "channels_last":
        tap.arguments = _argument_places(block, name, spec)
    block.__class__ = _tapped_class(type(block))
    block._tap = tap  # type: ignore[assignment]
    block._tap_call = None  # type: ignore[assignment]
    tap.handles.append(block.get_submodule(spec.entry).register_forward_pre_hook(block._tap_entry))  # type: ignore[arg-type]
    tap.handles.append(_outermost_checkpointed(model, name).register_forward_pre_hook(_require_input_grad))
    _rebind_forward(block)


def _count_both(model: nn.Module, name: str, spec: BlockSpec) -> Grid:
    return count_tokens(model, name, spec.prefix_tokens), count_tokens(model, name, spec.suffix_tokens)


def _has_submodule(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


def _argument_places(block: nn.Module, name: str, spec: BlockSpec) -> list[tuple[str, int]]:
    base = _base_class(type(block))
    parameters = list(inspect.signature(base.forward).parameters)[1:]
    names = [argument.strip() for argument in spec.grid.split(",")]
    missing = [argument for argument in names if argument not in parameters]
    if missing:
        raise ValueError(
            f"Block '{name}' ({base.__name__}) has no forward argument {missing} to take the token grid from; "
            f"it has {parameters}."
        )
    return [(argument, parameters.index(argument)) for argument in names]


def _rebind_forward(block: nn.Module) -> None:
    """Let a forward that accelerate replaced on the instance call the block's present class."""
    if "_old_forward" in block.__dict__:
        block._old_forward = types.MethodType(type(block).forward, block)  # type: ignore[assignment]


def _outermost_checkpointed(model: nn.Module, name: str) -> nn.Module:
    """The outermost module around block `name` (or the block) that transformers may checkpoint as a whole."""
    candidates = [model.get_submodule(name), *ancestors(model, name)]
    checkpointed = [m for m in candidates if hasattr(type(m), "gradient_checkpointing")]
    return checkpointed[-1] if checkpointed else candidates[0]


def _require_input_grad(module: nn.Module, args: tuple) -> tuple | None:
    """Pre-hook: reentrant checkpointing gives no gradient at all to a module none of whose inputs needs one."""
    if not (getattr(module, "gradient_checkpointing", False) and module.training and torch.is_grad_enabled()):
        return None
    options = getattr(getattr(module, "_gradient_checkpointing_func", None), "keywords", {})
    if not options.get("use_reentrant", True) or not args or not isinstance(args[0], Tensor):
        return None
    if args[0].requires_grad or not any(p.requires_grad for p in module.parameters()):
        return None
    return (args[0].detach().requires_grad_(), *args[1:])


def tolerate_tuple_embeddings(model: nn.Module) -> None:
    """Let `enable_input_require_grads` work where the patch embedding returns a tuple, as Swin's does.

    transformers and PEFT call it when gradient checkpointing meets adapters; transformers' own fails at the next
    forward there.
    """
    if hasattr(model, "enable_input_require_grads"):
        # a partial and not a bound method: pickle looks a method up by its name in the class
        model.enable_input_require_grads = functools.partial(_enable_input_require_grads, model)  # type: ignore[assignment]


def restore_embeddings(model: nn.Module) -> None:
    """Take back `tolerate_tuple_embeddings`."""
    model.__dict__.pop("enable_input_require_grads", None)


def _enable_input_require_grads(model: nn.Module) -> None:
    type(model).enable_input_require_grads(model)  # type: ignore[operator]
    hooks = getattr(model, "_require_grads_hooks", [])
    for handle in hooks:
        hooks_of_module = handle.hooks_dict_ref()
        if hooks_of_module is not None and handle.id in hooks_of_module:
            hooks_of_module[handle.id] = _require_output_grad


def _require_output_grad(module: nn.Module, args: Any, output: Any) -> None:
    for tensor in output if isinstance(output, tuple) else (output,):
        if isinstance(tensor, Tensor) and tensor.is_floating_point():
            tensor.requires_grad_(True)
