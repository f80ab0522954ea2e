"""Mona's parameters multiplied out for [`fast`], and the gradients' way back to them.

Fusing takes a few operations on small tensors, so it is done at every call: what is kept from one call to the next can
be outrun by a change that leaves no trace, such as one through `parameter.data`, a fused optimiser or shared memory.
Small operations cost what it takes to start them, so several are one wherever that can be.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Weights(NamedTuple):
    """Mona's parameters as the computation uses them: scales multiplied in, kernels summed, skips added.

    Args:
        norm_weight (`Tensor`): `(m,)`, s1 times the norm's weight.
        norm_bias (`Tensor`): `(m,)`, s1 times the norm's bias.
        input_scale (`Tensor`): `(m,)`, s2.
        down (`Tensor`): `(n, m)`.
        down_bias (`Tensor`): `(n,)`.
        kernel (`Tensor`): `(n, 1, K, K)`, all depthwise filters and the skip around them.
        kernel_bias (`Tensor`, *optional*): `(n,)`.
        matrix (`Tensor`, *optional*): `(n, n)`, the 1x1 convolution and the skip around it; not for the backward pass.
        pointwise (`Tensor`): `(n, n)`, the 1x1 convolution alone.
        pointwise_bias (`Tensor`, *optional*): `(n,)`.
        up (`Tensor`): `(m, n)`.
        up_bias (`Tensor`): `(m,)`.
    """

    norm_weight: Tensor
    norm_bias: Tensor
    input_scale: Tensor
    down: Tensor
    down_bias: Tensor
    kernel: Tensor
    kernel_bias: Tensor | None
    matrix: Tensor | None
    pointwise: Tensor
    pointwise_bias: Tensor | None
    up: Tensor
    up_bias: Tensor

    def made(self) -> list[Tensor | None]:
        """What was made of small parameters and is small itself: the backward pass gets it from the forward pass."""
        return [self.norm_weight, self.norm_bias, self.kernel, self.kernel_bias]


class Parameters(NamedTuple):
    """The parameters of a Mona of the final variant, as they are.

    Args:
        norm_weight (`Tensor`): `(m,)`.
        norm_bias (`Tensor`): `(m,)`.
        norm_scale (`Tensor`): s1, `(m,)` or `(1,)`.
        input_scale (`Tensor`): s2, `(m,)` or `(1,)`.
        down (`Tensor`): `(n, m)`.
        down_bias (`Tensor`): `(n,)`.
        pointwise (`Tensor`): `(n, n, 1, 1)`.
        pointwise_bias (`Tensor`, *optional*): `(n,)`.
        up (`Tensor`): `(m, n)`.
        up_bias (`Tensor`): `(m,)`.
        kernels (`Sequence[Tensor]`): Each `(n, 1, k, k)`.
        kernel_biases (`Sequence[Tensor | None]`): Each `(n,)`.
    """

    norm_weight: Tensor
    norm_bias: Tensor
    norm_scale: Tensor
    input_scale: Tensor
    down: Tensor
    down_bias: Tensor
    pointwise: Tensor
    pointwise_bias: Tensor | None
    up: Tensor
    up_bias: Tensor
    kernels: Sequence[Tensor]
    kernel_biases: Sequence[Tensor | None]

    @classmethod
    def of(cls, mona: Any) -> Parameters:
        """Those of `mona`."""
        norm, filters = mona.norm, list(mona.depthwise)
        down, pointwise, up = mona.down, mona.pointwise, mona.up
        return cls(
            *(norm.norm.weight, norm.norm.bias, norm.norm_scale, norm.input_scale),
            *(down.weight, down.bias, pointwise.weight, pointwise.bias, up.weight, up.bias),
            kernels=[conv.weight for conv in filters],
            kernel_biases=[conv.bias for conv in filters],
        )

    def flat(self) -> list[Tensor | None]:
        """All of them in one list, as an `autograd.Function` takes its tensors; each filter followed by its bias."""
        *single, kernels, biases = self
        return [*single, *(t for pair in zip(kernels, biases, strict=True) for t in pair)]

    @classmethod
    def split(cls, flat: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
        """The parts of [`flat`]: single parameters, and filters with their biases."""
        count = len(cls._fields) - 2
        return flat[:count], flat[count:]

    @classmethod
    def unflatten(cls, flat: Sequence[Tensor | None]) -> Parameters:
        """Take back [`flat`]."""
        single, filters = cls.split(flat)
        return cls._make([*single, filters[::2], filters[1::2]])

    def fuse(self, dtype: torch.dtype) -> Weights:
        """Multiply out; not differentiable.

        Args:
            dtype (`torch.dtype`): To compute in. The norm's have at least 32 bits: the gradient of s1 is a difference
                of products with them, for which half precision is too coarse.
        """
        weight, bias, s1, s2 = (_wide(t) for t in self[:4])
        norm_weight, norm_bias = torch._foreach_mul([weight, bias], [s1, s1])
        kernel, kernel_bias = self._sum_filters()
        matrix = _constants(self.sizes, self.down).skip + self.pointwise.flatten(1)
        plain, narrow = self._plain(), (kernel, kernel_bias, matrix)
        kernel, kernel_bias, matrix, *cast = cast_all([*narrow, *plain], [dtype] * (len(narrow) + len(plain)))
        return self._weights([norm_weight, norm_bias, kernel, kernel_bias], matrix, cast)

    def fuse_again(self, dtype: torch.dtype, made: Sequence[Any]) -> Weights:
        """As [`fuse`], for the backward pass, with what [`Weights.made`] gave there."""
        plain = self._plain()
        return self._weights(made, None, cast_all(plain, [dtype] * len(plain)))

    def _plain(self) -> list[Tensor | None]:
        """The parameters that are used as they are."""
        return [self.down, self.down_bias, self.pointwise.flatten(1), self.pointwise_bias, self.up, self.up_bias]

    def _weights(self, made: Sequence[Any], matrix: Tensor | None, plain: Sequence[Any]) -> Weights:
        norm_weight, norm_bias, kernel, kernel_bias = made
        input_scale = _wide(self.input_scale).expand(norm_weight.shape)
        down, down_bias, *rest = plain
        narrow = [down, down_bias, kernel, kernel_bias, matrix, *rest]
        return Weights._make([norm_weight, norm_bias, input_scale, *narrow])

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the depthwise filters."""
        return tuple(kernel.shape[-1] for kernel in self.kernels)

    def _sum_filters(self) -> tuple[Tensor, Tensor | None]:
        """The mean of the filters and the skip around them as one, and the mean of their biases."""
        sizes, channels = self.sizes, self.down.shape[0]
        biases = [bias.unsqueeze(1) for bias in self.kernel_biases if bias is not None]
        taps = torch.cat([*(kernel.flatten(1) for kernel in self.kernels), *biases], dim=1)  # (n, taps and biases)
        count, places = sum(size**2 for size in sizes), _constants(sizes, taps)
        kernel = torch.addmm(places.identity, taps[:, :count], places.sum).view(channels, 1, max(sizes), max(sizes))
        return kernel, taps[:, count:].mean(1) if biases else None

    def gradients(self, grads: dict[str, Tensor]) -> list[Tensor | None]:
        """The gradients of [`flat`] from those of the [`Weights`], by name; no two share memory."""
        weight, bias, s1, s2 = (_wide(t) for t in self[:4])
        grad_weight, grad_bias = grads["norm_weight"], grads["norm_bias"]
        grad_weight, grad_bias, through_weight, through_bias = torch._foreach_mul(
            [grad_weight, grad_bias, grad_weight, grad_bias], [s1, s1, weight, bias]
        )
        biases = [own for own in self.kernel_biases if own is not None]
        shared = [*(_inner(grads["kernel"], size) for size in self.sizes), *(grads["kernel_bias"] for _ in biases)]
        owners = [*self.kernels, *biases]
        shares = iter(torch._foreach_mul(cast_all(shared, [own.dtype for own in owners]), 1 / len(self.kernels)))
        found = Parameters(
            norm_weight=grad_weight,
            norm_bias=grad_bias,
            norm_scale=_sum_to(through_weight.add_(through_bias), s1),
            input_scale=_sum_to(grads["input_scale"], s2),
            down=grads["down"],
            down_bias=grads["down_bias"],
            pointwise=grads["pointwise"].view(self.pointwise.shape),
            pointwise_bias=grads.get("pointwise_bias"),
            up=grads["up"],
            up_bias=grads["up_bias"],
            kernels=[next(shares) for _ in self.kernels],
            kernel_biases=[None if own is None else next(shares) for own in self.kernel_biases],
        )
        return cast_all(found.flat(), [None if own is None else own.dtype for own in self.flat()])


class Constants(NamedTuple):
    """What sums depthwise filters up in a product, and adds skips.

    Args:
        sum (`Tensor`): `(taps of all filters, K * K)`: where each tap belongs, with its filter's share of the mean.
        identity (`Tensor`): `(K * K,)`, the filter that gives its input back.
        skip (`Tensor`): `(n, n)`, the matrix that does.
    """

    sum: Tensor
    identity: Tensor
    skip: Tensor


def _constants(sizes: tuple[int, ...], like: Tensor) -> Constants:
    """Those for filters of these sizes and as many channels, of the type and on the device of `like`."""
    make: Callable[..., Constants] = _make_constants
    if torch._C._len_torch_dispatch_stack() or (like.is_cuda and torch.cuda.is_current_stream_capturing()):
        # Fake tensors, and memory that a captured graph owns, must not outlive this call.
        make = _make_constants.__wrapped__
    return make(sizes, like.shape[0], like.dtype, like.device)


@functools.lru_cache(maxsize=64)
def _make_constants(sizes: tuple[int, ...], channels: int, dtype: torch.dtype, device: torch.device) -> Constants:
    largest = max(sizes)
    with torch.inference_mode(False), torch.no_grad():
        places = [_inner(torch.arange(largest**2).view(1, 1, largest, largest), size).flatten() for size in sizes]
        total = torch.zeros(sum(size**2 for size in sizes), largest**2, dtype=torch.float64)
        total[torch.arange(len(total)), torch.cat(places)] = 1 / len(sizes)
        identity = torch.zeros(largest**2, dtype=torch.float64)
        identity[largest**2 // 2] = 1
        return Constants(*(t.to(device, dtype) for t in (total, identity, torch.eye(channels))))


def cast_all(tensors: Sequence[Any], dtypes: Sequence[torch.dtype | None]) -> list[Any]:
    """The tensors in these types, None for None; all casts are one call."""
    wrong = [place for place, t in enumerate(tensors) if t is not None and t.dtype != dtypes[place]]
    cast = list(tensors)
    if wrong:
        for place in wrong:
            cast[place] = torch.empty_like(tensors[place], dtype=dtypes[place])
        torch._foreach_copy_([cast[place] for place in wrong], [tensors[place] for place in wrong])
    return cast


def _wide(t: Tensor) -> Tensor:
    return t if t.element_size() >= 4 else t.float()


def _sum_to(grad: Tensor, parameter: Tensor) -> Tensor:
    """The gradient of what was broadcast: that of one scale for all channels is a sum."""
    return grad if grad.shape == parameter.shape else grad.sum_to_size(parameter.shape)


def _inner(kernel: Tensor, size: int) -> Tensor:
    """The middle `size` x `size` taps, a view."""
    start = (kernel.shape[-1] - size) // 2
    return kernel if start == 0 else kernel[:, :, start : start + size, start : start + size]
