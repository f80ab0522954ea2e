"""The Mona adapter as a plain module.

Paper: "5%>100%: Breaking Performance Shackles of Full Fine-Tuning on Visual Recognition Tasks" (CVPR 2025,
https://arxiv.org/abs/2408.08345). Reference: the authors' code (https://github.com/Leiyi-Hu/mona), with which the
default settings agree. Deviations: tokens beside the patch grid (class, register and distillation tokens) are allowed;
the paper's text leaves open what the norms of design versions 2 and 3 look like, here they are scaled norms like the
last version's.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mona_peft.blocks.tap import TokenLayout

from . import fast
from .dropout import draw_kept, dropout
from .functional import depthwise, pointwise, pointwise_matrix, scaled_norm, sum_kernels


class TokenBatchNorm(nn.BatchNorm1d):
    """Batch norm over all tokens of all images, `(..., C)` to `(..., C)`."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel over everything but the channels."""
        return super().forward(x.reshape(-1, x.shape[-1])).view(x.shape)


class ScaledNorm(nn.Module):
    """A norm with a bypass, `s1 * Norm(x) + s2 * x`.

    Args:
        dim (`int`): Channels.
        scale (`str`): `"channel"` for vectors s1, s2; `"scalar"` for numbers.
        norm (`str`): `"layer"` for layer norm, `"batch"` for batch norm (the paper's ablation).
    """

    def __init__(self, dim: int, scale: str = "channel", norm: str = "layer") -> None:
        super().__init__()
        size = dim if scale == "channel" else 1
        self.norm: Any = nn.LayerNorm(dim) if norm == "layer" else TokenBatchNorm(dim)
        self.norm_scale = nn.Parameter(torch.full((size,), 1e-6))
        self.input_scale = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., C)` to `(..., C)`."""
        norm = self.norm
        if not isinstance(norm, nn.LayerNorm):
            return self.norm_scale * norm(x) + self.input_scale * x
        return scaled_norm(x, norm.weight, norm.bias, self.norm_scale, self.input_scale, norm.eps)


class Mona(nn.Module):
    """One Mona adapter: `x + Up(Dropout(GELU(filters(Down(scaled_norm(x))))))`.

    Args:
        dim (`int`): Channels m of the residual stream.
        bottleneck_dim (`int`): Channels n of the bottleneck.
        kernel_sizes (`Sequence[int]`): Sizes of the depthwise filters, odd.
        dropout (`float`): Dropout probability before the up projection.
        variant (`str`): `"final"`, or `"v1"`, `"v2"`, `"v3"` of the paper's design study.
        scale (`str`): `"channel"` or `"scalar"`, of the scaled norms.
        conv_bias (`bool`): Whether the convolutions have biases.
        init_weights (`bool` or `"official"`): True for a module that starts as the identity; `"official"` as in the
            authors' code; False for PyTorch's own.
        norm (`str`): Of the scaled norms: `"layer"`, `"batch"`, or `"none"` for no scaled norm at all.
    """

    triton = False  # see `use_triton`

    def __init__(
        self,
        dim: int,
        bottleneck_dim: int = 64,
        kernel_sizes: Sequence[int] = (3, 5, 7),
        dropout: float = 0.1,
        variant: str = "final",
        scale: str = "channel",
        conv_bias: bool = True,
        init_weights: bool | str = True,
        norm: str = "layer",
    ) -> None:
        super().__init__()
        n = bottleneck_dim
        self.dim = dim
        self.fast_path = norm == "layer"
        self._cache: tuple[Any, fast.Weights] | None = None  # weights fused for inference, and what they come from
        self.variant = variant
        if variant == "final":
            self.norm = _make_norm(dim, scale, norm)
        elif variant in ("v2", "v3"):
            self.norm1 = _make_norm(n, scale, norm)
            self.norm2 = _make_norm(n, scale, norm)
        self.down = nn.Linear(dim, n)
        self.depthwise = nn.ModuleList(
            nn.Conv2d(n, n, size, padding=size // 2, groups=n, bias=conv_bias) for size in kernel_sizes
        )
        self.pointwise = nn.Conv2d(n, n, 1, bias=conv_bias)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(n, dim)
        self.reset_parameters(init_weights)

    def reset_parameters(self, init_weights: bool | str = True) -> None:
        """Give the linear layers their first weights; the convolutions keep PyTorch's."""
        if init_weights is False:
            return
        for linear in (self.down, self.up):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        if init_weights is True:
            nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor, layout: TokenLayout) -> Tensor:
        """Map tokens `(B, N, m)`, or an image `(B, H, W, m)`, to the same shape."""
        if self.runs_fast(x):
            return self.stream(x, layout)[0]
        return x + self.delta(x, layout)

    def delta(self, x: Tensor, layout: TokenLayout) -> Tensor:
        """What the adapter adds to `x`, in the shape and type of `x`.

        Args:
            x (`Tensor`): `(B, N, m)`, or `(B, H, W, m)` without extra tokens.
            layout (`TokenLayout`): How the N tokens are laid out.
        """
        if self.runs_fast(x):
            return self._run_fast(x, None, layout, add=False)[1]
        tokens = x.reshape(x.shape[0], -1, self.dim) if x.dim() == 4 else x
        z = self.down(self.norm(tokens) if self.variant == "final" else tokens)
        z = nn.functional.gelu(self._filter(z, layout))
        return self.up(self._drop(z)).reshape(x.shape)

    def stream(
        self, x: Tensor, layout: TokenLayout, extra: Tensor | None = None, split: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Apply the adapter to `x + extra` where [`runs_fast`] allows it.

        Args:
            x (`Tensor`): `(B, N, m)`, or `(B, H, W, m)` without extra tokens.
            layout (`TokenLayout`): How the N tokens are laid out.
            extra (`Tensor`, *optional*): What is to be added to `x` first.
            split (`bool`): Whether to give back what was added, too.

        Returns:
            `tuple[Tensor, Tensor | None]`: The new residual stream, and what the adapter added if `split`.
        """
        return self._run_fast(x, extra, layout, split=split)

    def runs_fast(self, x: Tensor) -> bool:
        """Whether `x` can be handled by the code of [`fast`], which is neither traceable nor twice differentiable."""
        return self.fast_path and self.variant == "final" and fast.supports(self, x)

    def _run_fast(self, x: Tensor, extra: Tensor | None, layout: TokenLayout, **options: bool) -> Any:
        tokens = self._tokens(x)
        kept, scale = None, 1.0
        if self.training and self.dropout.p > 0:
            kept, scale = draw_kept((*tokens.shape[:-1], self.down.out_features), self.dropout.p, x.device)
        settings = fast.Options(layout, self.norm.norm.eps, scale, filters=self._filters(), **options)
        more = None if extra is None else self._tokens(extra)
        results = fast.run(tokens, more, kept, settings, self._weights(x.device.type))
        return tuple(None if result is None else result.view(x.shape) for result in results)

    def _filters(self) -> fast.Filters:
        if not self.triton:
            return fast.Filters()
        from .triton import depthwise as kernels  # not at the top: Triton may be missing

        return fast.Filters(kernels.depthwise, kernels.kernel_gradient)

    def _tokens(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], -1, self.dim).contiguous()

    def _weights(self, device: str) -> fast.Weights:
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.down.weight.dtype
        if self.training or torch.is_grad_enabled() or self.down.weight.is_inference():
            self._cache = None
            return self._fuse(dtype)
        key = (dtype, *((p.data_ptr(), p.dtype, p._version) for p in self.parameters()))
        if self._cache is None or self._cache[0] != key:
            with torch.inference_mode(False), torch.no_grad():
                self._cache = (key, self._fuse(dtype))
        return self._cache[1]

    def _fuse(self, dtype: torch.dtype) -> fast.Weights:
        """The parameters as [`fast`] wants them; differentiable."""
        norm = self.norm.norm
        # The gradient of s1 is a difference of products with the norm's parameters, so half precision is too coarse.
        weight, bias, s1, s2 = (
            t.to(torch.promote_types(t.dtype, torch.float32))
            for t in (norm.weight, norm.bias, self.norm.norm_scale, self.norm.input_scale)
        )
        kernel, kernel_bias = self._kernel(skip=True)
        matrix = pointwise_matrix(self.pointwise.weight, skip=True)
        return fast.Weights(
            s1 * weight,
            s1 * bias,
            s2.expand(self.dim),
            self.down.weight.to(dtype),
            self.down.bias.to(dtype),
            kernel.to(dtype),
            None if kernel_bias is None else kernel_bias.to(dtype),
            matrix.to(dtype),
            None if self.pointwise.bias is None else self.pointwise.bias.to(dtype),
            self.up.weight.to(dtype),
            self.up.bias.to(dtype),
        )

    def _drop(self, z: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return self.dropout(z)
        return dropout(z, self.dropout.p, self.training)

    def _filter(self, z: Tensor, layout: TokenLayout) -> Tensor:
        """The n-channel part between the projections, `(B, N, n)` to `(B, N, n)`."""
        if self.variant == "final":
            return self._pointwise(self._depthwise(z, layout, skip=True), skip=True)
        if self.variant == "v1":
            return self._pointwise(self._depthwise(z, layout, skip=False), skip=False) + z
        z = self._depthwise(self.norm1(z), layout, skip=False) + z
        return self._pointwise(self.norm2(z), skip=False) + z

    def _depthwise(self, z: Tensor, layout: TokenLayout, skip: bool) -> Tensor:
        kernel, bias = self._kernel(skip)
        return depthwise(z, kernel.to(z.dtype), None if bias is None else bias.to(z.dtype), layout)

    def _kernel(self, skip: bool) -> tuple[Tensor, Tensor | None]:
        """All depthwise filters as one: kernel and bias."""
        scale = 1.0 if self.variant in ("v1", "v2") else 1.0 / len(self.depthwise)
        convolutions: list[Any] = list(self.depthwise)
        kernel = sum_kernels([conv.weight for conv in convolutions], scale, skip)
        biases = [conv.bias for conv in convolutions if conv.bias is not None]
        return kernel, scale * functools.reduce(torch.add, biases) if biases else None

    def _pointwise(self, z: Tensor, skip: bool) -> Tensor:
        return pointwise(z, self.pointwise.weight, self.pointwise.bias, skip)


def _make_norm(dim: int, scale: str, norm: str) -> Any:
    return nn.Identity() if norm == "none" else ScaledNorm(dim, scale, norm)
