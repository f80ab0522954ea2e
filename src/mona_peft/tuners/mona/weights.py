"""Mona's parameters multiplied out for [`fast`], and the gradients' way back to them.

Fusing takes a few operations on small tensors, so it is done at every call: what is kept from one call to the next can
be outrun by a change that leaves no trace, such as one through `parameter.data`, a fused optimiser or shared memory.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


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
        matrix (`Tensor`): `(n, n)`, the 1x1 convolution and the skip around it.
        matrix_bias (`Tensor`, *optional*): `(n,)`.
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
    matrix: Tensor
    matrix_bias: Tensor | None
    up: Tensor
    up_bias: Tensor


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
    def unflatten(cls, flat: Sequence[Any]) -> Parameters:
        """Take back [`flat`]."""
        count = len(cls._fields) - 2
        filters = flat[count:]
        return cls._make([*flat[:count], filters[::2], filters[1::2]])

    def fuse(self, dtype: torch.dtype) -> Weights:
        """Multiply out; not differentiable.

        Args:
            dtype (`torch.dtype`): To compute in. The norm's have at least 32 bits: the gradient of s1 is a difference
                of products with them, for which half precision is too coarse.
        """
        weight, bias, s1, s2 = (_wide(t) for t in self[:4])
        return Weights(
            weight * s1,
            bias * s1,
            s2.expand(weight.shape),
            _cast(self.down, dtype),
            _cast(self.down_bias, dtype),
            _cast(self._kernel(), dtype),
            _cast(self._kernel_bias(), dtype),
            _cast(self._matrix(), dtype),
            _cast(self.pointwise_bias, dtype),
            _cast(self.up, dtype),
            _cast(self.up_bias, dtype),
        )

    def _kernel(self) -> Tensor:
        share = 1 / len(self.kernels)
        largest = max(self.kernels, key=lambda kernel: kernel.shape[-1])
        kernel = largest * share
        for other in self.kernels:
            if other is not largest:
                _inner(kernel, other.shape[-1]).add_(other, alpha=share)
        _inner(kernel, 1).add_(1)
        return kernel

    def _kernel_bias(self) -> Tensor | None:
        biases = [bias for bias in self.kernel_biases if bias is not None]
        return functools.reduce(torch.add, biases) / len(self.kernels) if biases else None

    def _matrix(self) -> Tensor:
        matrix = self.pointwise.flatten(1).clone()
        matrix.diagonal().add_(1)
        return matrix

    def gradients(self, grads: dict[str, Tensor]) -> list[Tensor | None]:
        """The gradients of [`flat`] from those of the [`Weights`], by name; no two share memory."""
        weight, bias, s1, s2 = (_wide(t) for t in self[:4])
        share = 1 / len(self.kernels)
        through_norm = (grads["norm_weight"] * weight).addcmul_(grads["norm_bias"], bias)
        found = Parameters(
            norm_weight=grads["norm_weight"] * s1,
            norm_bias=grads["norm_bias"] * s1,
            norm_scale=through_norm.sum_to_size(s1.shape),
            input_scale=grads["input_scale"].sum_to_size(s2.shape),
            down=grads["down"],
            down_bias=grads["down_bias"],
            pointwise=grads["matrix"].view(self.pointwise.shape),
            pointwise_bias=grads.get("matrix_bias"),
            up=grads["up"],
            up_bias=grads["up_bias"],
            kernels=[_inner(grads["kernel"], own.shape[-1]).to(own.dtype) * share for own in self.kernels],
            kernel_biases=[None if own is None else grads["kernel_bias"] * share for own in self.kernel_biases],
        )
        pairs = zip(found.flat(), self.flat(), strict=True)
        return [None if own is None else grad.to(own.dtype) for grad, own in pairs]  # type: ignore[union-attr]


def _wide(t: Tensor) -> Tensor:
    return t if t.element_size() >= 4 else t.float()


def _cast(t: Any, dtype: torch.dtype) -> Any:
    return t if t is None or t.dtype == dtype else t.to(dtype)


def _inner(kernel: Tensor, size: int) -> Tensor:
    """The middle `size` x `size` taps, a view."""
    start = (kernel.shape[-1] - size) // 2
    return kernel if start == 0 else kernel[:, :, start : start + size, start : start + size]
