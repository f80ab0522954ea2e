"""Mona as one function with its own gradient: few passes over memory, and few tensors kept for the backward pass.

The plain form keeps four tensors as wide as the residual stream for each adapter and reads or writes it some twenty
times. Here

- the result, which the next layer norm keeps anyway, is kept instead of the input: `x = out - Up(...)`;
- of the rest only Down's output and the GELU's input, as wide as the bottleneck, are kept; the backward pass computes
  the others again;
- dropout acts on the GELU's input, as a number so low that the GELU and its slope are zero there: its mask need not be
  kept, and is applied once for both passes;
- a CPU handles a few images at a time, so that everything in between stays in its cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable

from mona_peft.blocks.layout import TokenLayout

from .depthwise import kernel_gradient
from .functional import depthwise, token_size
from .watching import is_watched
from .weights import Parameters, Weights

aten = torch.ops.aten

# Bytes of the residual stream that a CPU handles at a time.
CHUNK_BYTES = 5 * 2**19

# What dropout takes from the GELU's input: far below all of them, and within the type's range with any of them.
DROP = {torch.float16: 3e4}
DROP_WIDE = 1e30


class Filters(NamedTuple):
    """How the depthwise filter is computed.

    Args:
        depthwise (`Callable`): As [`functional.depthwise`].
        kernel_gradient (`Callable`): As [`depthwise.kernel_gradient`].
    """

    depthwise: Callable[..., Tensor] = depthwise
    kernel_gradient: Callable[..., Tensor] = kernel_gradient


class Options(NamedTuple):
    """What else the computation needs to know.

    Args:
        layout (`TokenLayout`): Of the tokens.
        eps (`float`): Of the norm.
        scale (`float`): What dropout multiplies the rest with.
        add (`bool`): Whether the result is the new residual stream rather than what is to be added to it.
        split (`bool`): Whether to give back what was added as well.
        follow (`bool`): Whether what is added to a token is multiplied by [`token_size`].
        filters (`Filters`): How the depthwise filter is computed.
    """

    layout: TokenLayout
    eps: float
    scale: float = 1.0
    add: bool = True
    split: bool = False
    follow: bool = False
    filters: Filters = Filters()


def is_eager(x: Tensor) -> bool:
    """Whether an operation on `x` is computed as it is written, seen by nothing but autograd.

    Compilers, transforms of torch.func, forward-mode differentiation and dispatch modes (selective checkpointing,
    counters of operations) see through PyTorch's own operations only.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if is_watched():
        return True
    if type(x) is not Tensor or x.device.type == "meta":
        return False
    if torch._C._len_torch_dispatch_stack() or torch._C._functorch.is_functorch_wrapped_tensor(x):
        return False
    return forward_ad.unpack_dual(x).tangent is None


def supports(mona: Any, x: Tensor) -> bool:
    """Whether `mona` can be computed here: in eager mode, with plain parts whose weights are all here.

    Hooks, replaced layers and weights that are no plain parameters (parametrisation, offloading, quantization,
    DTensors) expect the layers themselves to be called.
    """
    if not is_eager(x) or x.shape[0] == 0 or not mona.has_plain_parts():
        return False
    parameters = (p for p in Parameters.of(mona).flat() if p is not None)
    if is_watched():
        return all(isinstance(p, nn.Parameter) for p in parameters)
    return all(type(p) is nn.Parameter and p.device == x.device for p in parameters)


def run(
    x: Tensor,
    extra: Tensor | None,
    dropped: Tensor | None,
    options: Options,
    parameters: Parameters,
    dtype: torch.dtype,
) -> Any:
    """Compute Mona of `x + extra`.

    Args:
        x (`Tensor`): `(B, N, m)`, contiguous.
        extra (`Tensor`, *optional*): What is to be added to `x` first.
        dropped (`Tensor`, *optional*): `(B, N, n)`, uint8: 1 for what dropout sets to zero, else 0.
        options (`Options`): See there.
        parameters (`Parameters`): Of the adapter.
        dtype (`torch.dtype`): To compute in; the norm has at least 32 bits.

    Returns:
        `tuple[Tensor | None, Tensor | None]`: The new stream and what was added to it, as `options` ask for.
    """
    if torch.is_grad_enabled():
        return _Mona.apply(x, extra, dropped, options, dtype, *parameters.flat())
    return _forward(x, extra, dropped, options, parameters.fuse(dtype), None)


class _Mona(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        extra: Tensor | None,
        dropped: Tensor | None,
        options: Options,
        dtype: torch.dtype,
        *parameters: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        ctx.set_materialize_grads(False)
        ctx.options, ctx.dtype = options, dtype
        ctx.keep_stream = not options.add or x.element_size() < 4
        with torch.autocast(x.device.type, enabled=False):
            weights = Parameters.unflatten(parameters).fuse(dtype)
            down, mixed = (weights.down.new_empty(*x.shape[:-1], weights.down.shape[0]) for _ in range(2))
            size = weights.norm_weight.new_empty(*x.shape[:-1], 1) if options.follow else None
            if ctx.keep_stream and extra is not None:
                x, extra = x + extra, None
            out, delta = _forward(x, extra, dropped, options, weights, (down, mixed), size)
        # Of the filters their sum is kept; what they are themselves tells the shapes of their gradients.
        single, ctx.filters = Parameters.split(parameters)
        ctx.save_for_backward(x if ctx.keep_stream else out, down, mixed, size, *single, *weights.made())
        return out, delta

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor | None, grad_delta: Tensor | None) -> tuple:
        # Checkpointing lets the saved tensors be asked for once only.
        stream, down, mixed, size, *small = ctx.saved_tensors
        single, made = Parameters.split(small)
        flat = [*single, *ctx.filters]
        needs_x, needs_extra, _, _, _, *needs_parameters = ctx.needs_input_grad
        grad_x: Tensor | None = None
        grads: Sequence[Tensor | None] = [None] * len(flat)
        if grad_out is not None or grad_delta is not None:
            parameters = Parameters.unflatten(flat)
            with torch.autocast(stream.device.type, enabled=False):
                weights, needs_weights = parameters.fuse_again(ctx.dtype, made), any(needs_parameters)
                task = _Backward(weights, ctx.options, ctx.keep_stream, needs_x or needs_extra, needs_weights)
                grad_x = task.run((stream, down, mixed), grad_out, grad_delta, size)
                grads = parameters.gradients(task.grads) if needs_weights else grads
        # PyTorch takes the gradient of a leaf as it is: one memory for two would be added to twice.
        grad_extra = grad_x if needs_extra else None
        if needs_x and grad_extra is not None:
            grad_extra = grad_extra.clone()
        return grad_x, grad_extra, None, None, None, *grads


def _images_at_a_time(stream: Tensor, weights: Weights) -> int:
    """How many images to handle at a time: all, but on a CPU as many as fit its cache."""
    batch = stream.shape[0]
    if stream.device.type != "cpu" or weights.down.element_size() < 4 or is_watched():
        return batch  # partial sums of half precision gradients would lose digits
    parts = math.ceil(batch * stream[0].numel() * stream.element_size() / CHUNK_BYTES)
    return math.ceil(batch / max(1, min(batch, parts)))


def _normalize(x: Tensor, weights: Weights, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The scaled norm of `(T, m)` tokens in the norm's type, and the norm's two statistics."""
    normed, mean, rstd = aten.native_layer_norm(x, [x.shape[-1]], weights.norm_weight, weights.norm_bias, eps)
    return normed.addcmul_(x, weights.input_scale), mean, rstd


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor | None = None) -> Tensor:
    return torch.mm(x, weight.t(), out=out) if bias is None else torch.addmm(bias, x, weight.t(), out=out)


def _drop(mixed: Tensor, dropped: Tensor) -> Tensor:
    """Take so much from what dropout drops, in place, that nothing of it passes the GELU in either direction."""
    return mixed.sub_(dropped.view_as(mixed), alpha=DROP.get(mixed.dtype, DROP_WIDE))


def _forward(
    x: Tensor,
    extra: Tensor | None,
    dropped: Tensor | None,
    options: Options,
    weights: Weights,
    keep: tuple[Tensor, Tensor] | None,
    size: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Compute Mona; see [`run`]. Down's output and the GELU's input go to `keep`, sizes of tokens to `size`."""
    out = torch.empty_like(x) if options.add else None
    delta = torch.empty_like(x) if options.split or not options.add else None
    count = _images_at_a_time(x, weights)
    for start in range(0, x.shape[0], count):
        part = slice(start, start + count)
        stream = x[part] if extra is None else x[part] + extra[part]
        places = (None, None) if keep is None else (keep[0][part].flatten(0, 1), keep[1][part].flatten(0, 1))
        activated = _narrow(stream, None if dropped is None else dropped[part], options, weights, *places)
        place = None if delta is None or delta.dtype != activated.dtype else delta[part].flatten(0, 1)
        added = torch.addmm(weights.up_bias, activated, weights.up.t(), alpha=options.scale, out=place)
        added = added.view(stream.shape)
        if options.follow:
            of_tokens = token_size(stream)
            added.mul_(of_tokens)
            if size is not None:
                size[part] = of_tokens
        if delta is not None and place is None:
            delta[part] = added
        if out is not None:
            torch.add(stream, added, out=out[part])
    return out, delta


def _narrow(
    stream: Tensor,
    dropped: Tensor | None,
    options: Options,
    weights: Weights,
    down_out: Tensor | None,
    mixed_out: Tensor | None,
) -> Tensor:
    """From the stream `(b, N, m)` to what Up gets, but for dropout's scale, `(b * N, n)`."""
    tokens = stream.view(-1, stream.shape[-1]).to(weights.norm_weight.dtype)
    normed = _normalize(tokens, weights, options.eps)[0].to(weights.down.dtype)
    down = _linear(normed, weights.down, weights.down_bias, down_out).view(*stream.shape[:-1], -1)
    filtered = options.filters.depthwise(down, weights.kernel, weights.kernel_bias, options.layout).flatten(0, 1)
    assert weights.matrix is not None
    mixed = _linear(filtered, weights.matrix, weights.pointwise_bias, mixed_out)
    return aten.gelu(mixed if dropped is None else _drop(mixed, dropped))


class _Backward:
    """The backward pass: adds the gradients up over the parts of the batch.

    Args:
        weights (`Weights`): As in the forward pass.
        options (`Options`): As in the forward pass.
        kept_stream (`bool`): Whether the kept tensor is the adapter's input, not its result.
        needs_x (`bool`): Whether the input needs a gradient.
        needs_weights (`bool`): Whether the weights do.
    """

    def __init__(
        self, weights: Weights, options: Options, kept_stream: bool, needs_x: bool, needs_weights: bool
    ) -> None:
        self.weights, self.options, self.kept_stream = weights, options, kept_stream
        self.needs_x, self.needs_weights = needs_x, needs_weights
        self.grads: dict[str, Tensor] = {}  # by name of the weight

    def run(
        self,
        tensors: Sequence[Tensor],
        grad_out: Tensor | None,
        grad_delta: Tensor | None,
        size: Tensor | None = None,
    ) -> Tensor | None:
        """Give the gradient of the input, and leave those of the weights in `grads`.

        Args:
            tensors (`Sequence[Tensor]`): The stream, Down's output, the GELU's input.
            grad_out (`Tensor`, *optional*): Gradient of the new stream.
            grad_delta (`Tensor`, *optional*): Gradient of what was added to it.
            size (`Tensor`, *optional*): `(B, N, 1)`, what was multiplied with what was added.
        """
        grad_x = torch.empty_like(tensors[0]) if self.needs_x else None
        count = _images_at_a_time(tensors[0], self.weights)
        for start in range(0, tensors[0].shape[0], count):
            part = slice(start, start + count)
            grads = [grad[part] for grad in (grad_out, grad_delta) if grad is not None]
            grad = grads[0] if len(grads) == 1 else grads[0] + grads[1]
            stream, down, mixed = (t[part] for t in tensors)
            sizes = None if size is None else size[part].view(-1, 1)
            grad_through = self._part(grad, stream, down, mixed, sizes).view_as(grad)
            if grad_x is not None and grad_out is not None:
                torch.add(grad_out[part], grad_through, out=grad_x[part])
            elif grad_x is not None:
                grad_x[part] = grad_through
        return grad_x

    def _part(self, grad: Tensor, stream: Tensor, down: Tensor, mixed: Tensor, size: Tensor | None) -> Tensor:
        weights, dtype = self.weights, self.weights.norm_weight.dtype
        mixed = mixed.flatten(0, 1)
        activated = aten.gelu(mixed)
        stream, grad = (t.reshape(-1, t.shape[-1]) for t in (stream, grad))
        slope: Tensor | None = None  # of the loss over the token's square, but for a factor of two
        if size is not None or not self.kept_stream:
            added = torch.addmm(weights.up_bias, activated, weights.up.t(), alpha=self.options.scale)
            if size is not None:
                slope = torch.linalg.vecdot(grad.to(dtype), added.to(dtype)).unsqueeze(1)
                slope = (slope / (stream.shape[1] * size)).masked_fill_(size == 0, 0)
                grad, added = grad.to(dtype) * size, added.mul_(size)
            if not self.kept_stream:
                stream = torch.sub(stream, added, out=added if added.dtype == stream.dtype else None)
        grad_down = self._filters(down, self._up(activated, mixed, grad.to(weights.up.dtype)))
        stream = stream.to(dtype)
        grad_x = self._down(stream, grad_down.flatten(0, 1))
        return grad_x if slope is None else grad_x.addcmul_(stream, slope)

    def _up(self, activated: Tensor, mixed: Tensor, grad: Tensor) -> Tensor:
        if self.needs_weights:
            self._accumulate_product("up", grad, activated, self.options.scale)
            self._accumulate("up_bias", grad.sum(0))
        grad = torch.addmm(self.weights.down_bias, grad, self.weights.up, beta=0, alpha=self.options.scale)
        return aten.gelu_backward(grad, mixed)

    def _filters(self, down: Tensor, grad: Tensor) -> Tensor:
        weights, layout, filters = self.weights, self.options.layout, self.options.filters
        grad_filtered = torch.addmm(grad, grad, weights.pointwise).view_as(down)  # with the skip's gradient
        if self.needs_weights:
            filtered = filters.depthwise(down, weights.kernel, weights.kernel_bias, layout).flatten(0, 1)
            self._accumulate_product("pointwise", grad, filtered)
            self._accumulate("pointwise_bias", grad.sum(0))
            self._accumulate("kernel", filters.kernel_gradient(down, grad_filtered, weights.kernel, layout))
            self._accumulate("kernel_bias", grad_filtered.sum((0, 1)))
        # With zero padding a convolution is its own transpose but for the flip.
        return filters.depthwise(grad_filtered, weights.kernel.flip(-1, -2), None, layout)

    def _down(self, x: Tensor, grad_z: Tensor) -> Tensor:
        weights = self.weights
        normed, mean, rstd = _normalize(x, weights, self.options.eps)
        if self.needs_weights:
            self._accumulate_product("down", grad_z, normed.to(grad_z.dtype))
            self._accumulate("down_bias", grad_z.sum(0))
        del normed  # as wide as what comes now
        grad = torch.mm(grad_z, weights.down).to(x.dtype)
        masks = [True, self.needs_weights, self.needs_weights]
        grad_x, grad_weight, grad_bias = aten.native_layer_norm_backward(
            grad, x, [x.shape[-1]], mean, rstd, weights.norm_weight, weights.norm_bias, masks
        )
        if self.needs_weights:
            self._accumulate("norm_weight", grad_weight)
            self._accumulate("norm_bias", grad_bias)
            self._accumulate("input_scale", torch.linalg.vecdot(grad, x, dim=0))
        return grad_x.addcmul_(grad, weights.input_scale)

    def _accumulate(self, name: str, value: Tensor) -> None:
        if getattr(self.weights, name) is not None:
            self.grads[name] = self.grads[name].add_(value) if name in self.grads else value

    def _accumulate_product(self, name: str, grad: Tensor, x: Tensor, scale: float = 1.0) -> None:
        if name in self.grads:
            self.grads[name].addmm_(grad.t(), x, alpha=scale)
        else:
            self.grads[name] = torch.addmm(getattr(self.weights, name), grad.t(), x, beta=0, alpha=scale)
