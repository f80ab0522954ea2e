"""A block whose forward runs with adapters; [`tap`] makes one of a block, and says how it works."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn

from .adapter import ResidualAdapter
from .call import Call, add_up, running, running_call
from .checkpointing import CHECKPOINT_WRAPS_CALL, Handle, require_input_grad
from .layout import Layout
from .rows import group_rows, on_grid
from .source import LayoutSource
from .spec import BlockSpec


@dataclass
class Tap:
    """What a tapped block knows of itself.

    Args:
        name (`str`): The block's name in its model, for messages.
        spec (`BlockSpec`): Its row of the table.
        source (`LayoutSource`): Finds the token layout of a call.
        adapters (`list[str]`): Names of the block's children that adapt its residual stream.
        handles (`list[Handle]`): Further hooks to remove at the end.
        watches_norms (`bool`): Whether there are hooks on the norms, as long as an adapter reads them.
        required (`list[str]`): Paths of the hooked modules that every forward of the block has to call, once.
    """

    name: str
    spec: BlockSpec
    source: LayoutSource
    adapters: list[str] = field(default_factory=list)
    handles: list[Handle] = field(default_factory=list)
    watches_norms: bool = False
    required: list[str] = field(default_factory=list)

    def layout(self, args: tuple, kwargs: dict[str, Any]) -> Layout:
        """Find the token layout of a call of the block with these arguments; see `LayoutSource`."""
        hidden_states = args[0] if args else next(iter(kwargs.values()))
        return group_rows(self.source.layout(args, kwargs), hidden_states.shape[0])


def traced_by(args: tuple, kwargs: dict[str, object]) -> Any:
    """The tracer of torch.fx whose proxies are among the arguments, or None."""
    return next((value.tracer for value in (*args, *kwargs.values()) if isinstance(value, torch.fx.Proxy)), None)


class Hook:
    """A hook on a module of a block that calls a method of the block.

    A copy of the model calls the copied block; a copy of the module alone, as PEFT makes of `modules_to_save`, the
    same block.

    Args:
        block (`TappedBlock`): The block.
        method (`str`): Name of the method.
    """

    def __init__(self, block: TappedBlock, method: str) -> None:
        self.block = block
        self.method = method

    def __call__(self, module: nn.Module, *args: object) -> object:
        return getattr(self.block, self.method)(module, *args)

    def __deepcopy__(self, memo: dict[int, Any]) -> Hook:
        return Hook(memo.get(id(self.block), self.block), self.method)


class TappedBlock(nn.Module):
    """Mixin that `tap` puts before the class of a block; see the head of this file.

    `__call__` finds the layout of the call's tokens and hands it to `forward`, which runs the block's own forward with
    the hooks of `tap` acting and adds what is due to the first item of its result. Without active adapters, or with
    proxies of torch.fx for arguments, the block's own forward or a single node of the graph is all there is. A block
    that does not call each hooked module exactly once raises `RuntimeError`.
    """

    _tap: Tap
    _tap_call: Call | None

    def _tap_adapters(self) -> list[ResidualAdapter]:
        adapters: list[ResidualAdapter] = [getattr(self, name) for name in self._tap.adapters]
        return [adapter for adapter in adapters if not adapter.is_idle()]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if CHECKPOINT_WRAPS_CALL and self.__dict__.get("_before_checkpoint"):
            args = require_input_grad(self, args) or args
        if traced_by(args, kwargs):
            return super().__call__(*args, **kwargs)
        hidden_states = args[0] if args else next(iter(kwargs.values()))
        # Gradient checkpointing of transformers recomputes `forward` alone, so the layout is found here and travels as
        # an argument; where others checkpoint the whole call, it is found by the input.
        if "tap_layout" not in kwargs:
            if self._tap_adapters():
                kwargs["tap_layout"] = self._tap.layout(args, kwargs)
            else:
                self._tap.source.pass_by()
        output = super().__call__(*args, **kwargs)
        self._tap.source.follow(hidden_states, output)
        return output

    def forward(self, *args: Any, tap_layout: Layout | None = None, **kwargs: Any) -> Any:
        tracer = traced_by(args, kwargs)
        if tracer is not None:  # what an adapter does depends on the call, so for torch.fx the block is a leaf
            return tracer.create_proxy("call_module", tracer.path_of_module(self), args, kwargs)
        adapters = self._tap_adapters()
        if not adapters:
            return super().forward(*args, **kwargs)
        layout = tap_layout if tap_layout is not None else self._tap.layout(args, kwargs)
        call = Call(adapters, layout)
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

    def _tap_exit(self, call: Call, hidden_states: Tensor) -> Tensor:
        """Add to the block's result what the adapters added before its MLP, and what they have for the result."""
        channels_first = self._tap.spec.grid == "channels_first"
        if channels_first:
            hidden_states = hidden_states.permute(0, 2, 3, 1)  # (B, H, W, C), as the MLP branch sees it
        if not self._tap.spec.entry:  # a convolution may have another stride than 1
            call.layout = on_grid(call.layout, hidden_states.shape[1], hidden_states.shape[2])
        hidden_states = call.leave(hidden_states)
        return hidden_states.permute(0, 3, 1, 2) if channels_first else hidden_states

    def _tap_run(self, call: Call, args: tuple, kwargs: dict[str, Any]) -> Any:
        if torch.compiler.is_compiling():
            self._tap_call = call
            output = super().forward(*args, **kwargs)
            self._tap_call = None
            return output
        with running(call):
            return super().forward(*args, **kwargs)

    def _tap_entry(self, module: nn.Module, args: tuple) -> tuple | None:
        """Pre-hook of the entry module: add what the adapters have for the stream after attention."""
        call = self._tap_reach(self._tap.spec.entry)
        if call is None:
            return None
        if self._tap.spec.grid == "channels_last" and args[0].dim() == 4:  # attention may have pooled the image
            call.layout = on_grid(call.layout, args[0].shape[1], args[0].shape[2])
        hidden_states, delta = call.enter(args[0])
        parallel = call.total([a.beside_mlp for a in call.adapters], hidden_states)
        call.delta = add_up([delta, parallel])
        return (hidden_states, *args[1:])

    def _tap_attention_norm(self, module: nn.Module, args: tuple, normed: Tensor) -> None:
        """Hook of the norm before attention: compute what the adapters compute in parallel with attention."""
        call = self._tap_reach(self._tap.spec.attention_norm)
        if call is not None:
            call.beside_attention = call.total([a.beside_attention for a in call.adapters], normed)

    def _tap_mlp_norm(self, module: nn.Module, args: tuple, normed: Tensor) -> None:
        """Hook of the entry module, a norm: compute what the adapters compute in parallel with the MLP."""
        call = self._tap_running(self._tap.spec.entry)
        if call is not None:
            call.delta = add_up([call.delta, call.total([a.beside_mlp_normed for a in call.adapters], normed)])

    def _tap_running(self, path: str) -> Call | None:
        """The forward of this block that calls the module at `path`; None without active adapters."""
        if not self._tap_adapters():
            return None
        call = self._tap_call if torch.compiler.is_compiling() else running_call()
        if call is None:
            raise RuntimeError(
                f"'{path}' of the adapted block '{self._tap.name}' was called outside the block's forward, where its "
                "adapters cannot act. Call the block, or disable the adapters first."
            )
        return call

    def _tap_reach(self, path: str) -> Call | None:
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

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple:
        # The class is made at run time, so pickling and copying name the class it was made from.
        return _new_tapped, (base_class(type(self)),), self.__getstate__()


def base_class(cls: type[nn.Module]) -> type[nn.Module]:
    """The class a tapped class was made from; the class itself if it is not tapped."""
    mro = cls.__mro__
    return mro[mro.index(TappedBlock) + 1] if TappedBlock in mro else cls


def _new_tapped(base: Any) -> nn.Module:
    cls = tapped_class(base)
    return cls.__new__(cls)


@functools.cache
def tapped_class(base: Any) -> type[TappedBlock]:
    """`base` with [`TappedBlock`] before it, always the same class for the same base."""
    return type(base.__name__, (TappedBlock, base), {"__module__": base.__module__, "__doc__": base.__doc__})
