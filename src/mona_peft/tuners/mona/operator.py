"""The whole adapter as one operator of PyTorch, for what cannot see the function of [`fast`] as it is.

torch.compile would take it apart: its partitioner would find what the backward pass computes again among what the
forward pass has, and keep that. As an operator, which nothing looks into, it keeps what it keeps in eager mode. On
fake tensors, which plan what a step costs, the operator stands for the function, too. At inference the compiler does
better by itself with plain operations, and exporters need them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mona_peft.blocks.layout import TokenLayout

from . import fast
from .functional import token_size
from .watching import is_watched
from .weights import Parameters

_is_exporting = getattr(torch.compiler, "is_exporting", lambda: True)  # PyTorch 2.6 does not tell
_Modes = torch._C._TorchDispatchModeKey


def supports(mona: Any, x: Tensor) -> bool:
    """Whether `mona` is to be computed here as the operator: in training, compiled or on fake tensors.

    Args:
        mona (`Mona`): With a fast path.
        x (`Tensor`): Its input.
    """
    if not torch.is_grad_enabled() or not is_traced() or not mona.has_plain_parts():
        return False
    parameters = Parameters.of(mona).flat()
    biases = [p is None for p in (mona.pointwise.bias, *(conv.bias for conv in mona.depthwise))]
    return all(biases) == any(biases) and all(p is None or isinstance(p, nn.Parameter) for p in parameters)


def is_traced() -> bool:
    """Whether something else than eager mode is at work here that is to see the operator."""
    if torch.compiler.is_compiling():
        return not _is_exporting()
    fake = torch._C._get_dispatch_mode(_Modes.FAKE) is not None and not is_watched()
    return fake and torch._C._get_dispatch_mode(_Modes.PROXY) is None


def run(
    x: Tensor,
    extra: Tensor | None,
    dropped: Tensor | None,
    options: fast.Options,
    flat: Sequence[Tensor | None],
    dtype: torch.dtype,
) -> tuple[Tensor | None, Tensor | None]:
    """As [`fast.run`], with the parameters as [`Parameters.flat`] gives them."""
    if options.follow:  # the operator itself does not know of it
        x = x if extra is None else x + extra
        alone = options._replace(add=False, split=False, follow=False)
        _, delta = run(x, None, dropped, alone, flat, dtype)
        assert delta is not None
        delta = delta * token_size(x).to(delta.dtype)
        return x + delta if options.add else None, delta if options.split or not options.add else None
    if extra is not None and _keeps_stream(x, options.add):
        x, extra = x + extra, None
    parameters = [p for p in flat if p is not None]
    layout = [int(value) if isinstance(value, int) else value for value in options.layout]
    out, delta, _, _ = mona_operator(
        x, extra, dropped, parameters, layout, options.eps, options.scale, options.add, options.split, dtype
    )
    return out if options.add else None, delta if options.split or not options.add else None


def _keeps_stream(x: Tensor, add: bool) -> bool:
    return not add or x.element_size() < 4


def _parameters(present: Sequence[Tensor]) -> Parameters:
    """Take back that those which are None were left out: the biases of all convolutions, or none."""
    single = len(Parameters._fields) - 2
    if present[7].dim() == 1:  # the bias of the 1x1 convolution, not Up
        return Parameters.unflatten(present)
    flat: list[Tensor | None] = [*present[:7], None, *present[7 : single - 1]]
    for kernel in present[single - 1 :]:
        flat += [kernel, None]
    return Parameters.unflatten(flat)


@torch.library.custom_op("mona_peft::mona", mutates_args=())
def mona_operator(
    x: Tensor,
    extra: Tensor | None,
    dropped: Tensor | None,
    parameters: Sequence[Tensor],
    layout: Sequence[int],
    eps: float,
    scale: float,
    add: bool,
    split: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The stream, what was added to it (each empty if not asked for), Down's output and the GELU's input."""
    options = fast.Options(TokenLayout(*layout), eps, scale, add, split)
    with torch.autocast(x.device.type, enabled=False):
        weights = _parameters(parameters).fuse(dtype)
        down, mixed = (weights.down.new_empty(*x.shape[:-1], weights.down.shape[0]) for _ in range(2))
        out, delta = fast._forward(x.contiguous(), extra, dropped, options, weights, (down, mixed))
    return x.new_empty(0) if out is None else out, x.new_empty(0) if delta is None else delta, down, mixed


@mona_operator.register_fake
def _(
    x: Tensor,
    extra: Tensor | None,
    dropped: Tensor | None,
    parameters: Sequence[Tensor],
    layout: Sequence[int],
    eps: float,
    scale: float,
    add: bool,
    split: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    down, mixed = (x.new_empty((*x.shape[:-1], parameters[4].shape[0]), dtype=dtype) for _ in range(2))
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    delta = torch.empty_like(x, memory_format=torch.contiguous_format)
    return out if add else x.new_empty(0), delta if split or not add else x.new_empty(0), down, mixed


#: Written out, because torch 2.6 cannot make `list[Tensor]` of a result out of the annotations.
BACKWARD_SCHEMA = (
    "(Tensor stream, Tensor down, Tensor mixed, Tensor? grad_out, Tensor? grad_delta, Tensor[] parameters, "
    "SymInt[] layout, float eps, float scale, bool kept_stream, bool needs_weights, ScalarType dtype) -> Tensor[]"
)


@torch.library.custom_op("mona_peft::mona_backward", mutates_args=(), schema=BACKWARD_SCHEMA)
def backward_operator(
    stream: Tensor,
    down: Tensor,
    mixed: Tensor,
    grad_out: Tensor | None,
    grad_delta: Tensor | None,
    parameters: Sequence[Tensor],
    layout: Sequence[int],
    eps: float,
    scale: float,
    kept_stream: bool,
    needs_weights: bool,
    dtype: torch.dtype,
) -> list[Tensor]:
    """The gradients of the stream and, if these are asked for, of the parameters."""
    options, own = fast.Options(TokenLayout(*layout), eps, scale), _parameters(parameters)
    with torch.autocast(stream.device.type, enabled=False):
        task = fast._Backward(own.fuse(dtype), options, kept_stream, True, needs_weights)
        grad_x = task.run((stream.contiguous(), down, mixed), grad_out, grad_delta)
        assert grad_x is not None
        grads = own.gradients(task.grads) if needs_weights else []
    return [grad_x, *(grad for grad in grads if grad is not None)]


@backward_operator.register_fake
def _(
    stream: Tensor,
    down: Tensor,
    mixed: Tensor,
    grad_out: Tensor | None,
    grad_delta: Tensor | None,
    parameters: Sequence[Tensor],
    layout: Sequence[int],
    eps: float,
    scale: float,
    kept_stream: bool,
    needs_weights: bool,
    dtype: torch.dtype,
) -> list[Tensor]:
    kinds = [stream, *(parameters if needs_weights else [])]
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in kinds]


def _set_up(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, _, _, parameters, layout, eps, scale, add, split, dtype = inputs
    out, _, down, mixed = output
    ctx.set_materialize_grads(False)
    kept_stream = _keeps_stream(x, add)
    ctx.save_for_backward(x if kept_stream else out, down, mixed, *parameters)
    ctx.rest = (layout, eps, scale, kept_stream, any(p.requires_grad for p in parameters), dtype)
    ctx.used, ctx.count = (add, split or not add), len(parameters)


def _backward(ctx: Any, grad_out: Tensor | None, grad_delta: Tensor | None, *rest: None) -> tuple:
    grads = [grad if used else None for grad, used in zip((grad_out, grad_delta), ctx.used, strict=True)]
    if grads == [None, None]:
        return (None,) * 10
    stream, down, mixed, *parameters = ctx.saved_tensors
    grad_x, *found = backward_operator(stream, down, mixed, *grads, parameters, *ctx.rest)
    needs_x, needs_extra = ctx.needs_input_grad[:2]
    return (
        grad_x if needs_x else None,
        grad_x if needs_extra else None,
        None,
        found or [None] * ctx.count,
        *(None,) * 6,
    )


mona_operator.register_autograd(_backward, setup_context=_set_up)
