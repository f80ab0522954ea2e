"""The Mona adapter as a plain module.

Paper: "5%>100%: Breaking Performance Shackles of Full Fine-Tuning on Visual Recognition Tasks" (CVPR 2025,
https://arxiv.org/abs/2408.08345). Reference: the authors' code (https://github.com/Leiyi-Hu/mona), with which the
default settings agree. Deviations: tokens outside the grid (class, register and distillation tokens) are allowed;
the paper's text leaves open what the norms of design versions 2 and 3 look like, here they are scaled norms like the
last version's.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mona_peft.blocks.layout import TokenLayout
from mona_peft.blocks.recorder import in_backward

from . import fast, operator
from .dropout import draw_dropped, draw_dropped_when_traced, dropout
from .functional import convolve, depthwise, pointwise, sum_kernels, token_size
from .parts import is_hooked, is_plain
from .weights import Parameters


class TokenBatchNorm(nn.BatchNorm1d):
    """Batch norm over all tokens of all images, `(..., C)` to `(..., C)`.

    It computes in 32 bits at least, whatever types its input, weights and running statistics have: PEFT casts an
    adapter's weights alone, and the statistics of a model in half precision stay in it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel over everything but the channels."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        running_mean, running_var, tracked = self.running_mean, self.running_var, self.num_batches_tracked
        assert running_mean is not None and running_var is not None and tracked is not None, "statistics are tracked"
        # where a checkpointed block runs again, in the backward pass, its first run has taken the step
        again = self.training and not torch.compiler.is_compiling() and in_backward()
        mean, var = (t.to(dtype, copy=again) for t in (running_mean, running_var))
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        tokens = x.reshape(-1, x.shape[-1]).to(dtype)
        normed = nn.functional.batch_norm(
            tokens, mean, var, weight, bias, self.training, self.momentum or 0.0, self.eps
        )
        if self.training and not again:
            for buffer, moved in ((running_mean, mean), (running_var, var)):
                if buffer is not moved:  # a copy was cast, so the step was taken by the copy
                    buffer.copy_(moved)
            tracked.add_(1)
        return normed.view(x.shape).to(x.dtype)


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
        self.norm: nn.LayerNorm | TokenBatchNorm = nn.LayerNorm(dim) if norm == "layer" else TokenBatchNorm(dim)
        self.norm_scale = nn.Parameter(torch.full((size,), 1e-6))
        self.input_scale = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., C)` to `(..., C)`."""
        return self.norm_scale * self.norm(x) + self.input_scale * x


class Mona(nn.Module):
    """One Mona adapter: `x + Up(Dropout(GELU(filters(Down(scaled_norm(x))))))`, what is added times the output scale.

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
        output_scale (`str`): Of what is added to a token: `"none"`, or `"stream"` for the token's root mean square.
    """

    filters = fast.Filters()  # of the fast path; see `use_triton`

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
        output_scale: str = "none",
    ) -> None:
        super().__init__()
        n = bottleneck_dim
        self.dim = dim
        self.follows_stream = output_scale == "stream"
        self.fast_path = norm == "layer"
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
        """Map tokens `(B, N, m)`, or an image `(B, H, W, m)`, to the same shape: the new residual stream."""
        return self.stream(x, layout)[0] if self._can_run_fast(x) else x + self._delta(x, layout)

    def delta(self, x: Tensor, layout: TokenLayout) -> Tensor:
        """What the adapter adds to `x`, in the shape and type of `x`.

        If something hooks into the adapter itself, the adapter is called, so that hooks see streams, and what they
        change counts.

        Args:
            x (`Tensor`): `(B, N, m)`, or `(B, H, W, m)` without extra tokens.
            layout (`TokenLayout`): How the N tokens are laid out.
        """
        if is_hooked(self):
            return self(x, layout) - x
        return self._run_fast(x, None, layout, add=False)[1] if self._can_run_fast(x) else self._delta(x, layout)

    def _delta(self, x: Tensor, layout: TokenLayout) -> Tensor:
        """What the adapter adds to `x`, by plain operations; the parts are called where [`is_plain`] asks for it."""
        tokens = x.flatten(1, -2)
        z = self.down(self.norm(tokens) if self.variant == "final" else tokens)
        z = nn.functional.gelu(self._filter(z, layout))
        delta = self.up(self._drop(z)).reshape(x.shape)
        return delta * token_size(x).to(delta.dtype) if self.follows_stream else delta

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
        """Whether [`stream`] can be used for `x`: not if the adapter is hooked into and has to be called."""
        return not is_hooked(self) and self._can_run_fast(x)

    def _can_run_fast(self, x: Tensor) -> bool:
        """Whether `x` can be handled by the code of [`fast`], which is neither traceable nor twice differentiable.

        As an [`operator`] it is compiled.
        """
        if not self.fast_path or self.variant != "final":
            return False
        return fast.supports(self, x) or operator.supports(self, x)

    def has_plain_parts(self) -> bool:
        """Whether the parts are the layers that the adapter was made of, and nothing hooks into them."""
        linear = is_plain(self.down, nn.Linear) and is_plain(self.up, nn.Linear)
        if not (linear and is_plain(self.dropout, nn.Dropout) and is_plain(self.norm, ScaledNorm)):
            return False
        filters = all(is_plain(convolution, nn.Conv2d) for convolution in (*self.depthwise, self.pointwise))
        return filters and is_plain(self.norm.norm, nn.LayerNorm)

    def _run_fast(self, x: Tensor, extra: Tensor | None, layout: TokenLayout, **options: bool) -> Any:
        tokens, drop = self._tokens(x), self.dropout
        dropped, scale = self._draw_dropped(tokens) if drop.training and drop.p > 0 else (None, 1.0)
        settings = fast.Options(
            layout, self.norm.norm.eps, scale, follow=self.follows_stream, filters=self.filters, **options
        )
        more = None if extra is None else self._tokens(extra)
        parameters, dtype = Parameters.of(self), self._compute_dtype(x.device.type)
        if operator.is_traced():
            results = operator.run(tokens, more, dropped, settings, parameters.flat(), dtype)
        else:
            results = fast.run(tokens, more, dropped, settings, parameters, dtype)
        return tuple(None if result is None else result.view(x.shape) for result in results)

    def _draw_dropped(self, tokens: Tensor) -> tuple[Tensor, float]:
        channels, p = self.down.out_features, self.dropout.p
        if operator.is_traced():
            return draw_dropped_when_traced(tokens, channels, p)
        return draw_dropped((*tokens.shape[:-1], channels), p, tokens.device)

    def _compute_dtype(self, device: str) -> torch.dtype:
        dtype = self.down.weight.dtype
        lowered = torch.is_autocast_enabled(device) and dtype != torch.float64  # which autocast leaves as it is
        return torch.get_autocast_dtype(device) if lowered else dtype

    def _tokens(self, x: Tensor) -> Tensor:
        return x.flatten(1, -2).contiguous()

    def _drop(self, z: Tensor) -> Tensor:
        if fast.is_eager(z) and is_plain(self.dropout, nn.Dropout):
            return dropout(z, self.dropout.p, self.dropout.training)
        return self.dropout(z)

    def _filter(self, z: Tensor, layout: TokenLayout) -> Tensor:
        """The n-channel part between the projections, `(B, N, n)` to `(B, N, n)`."""
        if self.variant == "final":
            return self._pointwise(self._depthwise(z, layout, skip=True), layout, skip=True)
        if self.variant == "v1":
            return self._pointwise(self._depthwise(z, layout, skip=False), layout, skip=False) + z
        z = self._depthwise(self.norm1(z), layout, skip=False) + z
        return self._pointwise(self.norm2(z), layout, skip=False) + z

    def _depthwise(self, z: Tensor, layout: TokenLayout, skip: bool) -> Tensor:
        """The sum or average of the depthwise filters, as one convolution where all are plain."""
        scale = 1.0 if self.variant in ("v1", "v2") else 1.0 / len(self.depthwise)
        filters: list[Any] = list(self.depthwise)
        if not all(is_plain(conv, nn.Conv2d) for conv in filters):
            filtered = scale * _total([convolve(conv, z, layout) for conv in filters])
            return filtered + z if skip else filtered
        kernel = sum_kernels([conv.weight for conv in filters], scale, skip)
        biases = [conv.bias for conv in filters if conv.bias is not None]
        return depthwise(z, kernel.to(z.dtype), (scale * _total(biases)).to(z.dtype) if biases else None, layout)

    def _pointwise(self, z: Tensor, layout: TokenLayout, skip: bool) -> Tensor:
        """`PW(z)`, or with `skip` `z + PW(z)`, as one product where the convolution is plain."""
        if is_plain(self.pointwise, nn.Conv2d):
            return pointwise(z, self.pointwise.weight, self.pointwise.bias, skip)
        filtered = convolve(self.pointwise, z, layout)
        return filtered + z if skip else filtered


def _total(tensors: list[Tensor]) -> Tensor:
    return functools.reduce(torch.add, tensors)


def _make_norm(dim: int, scale: str, norm: str) -> Any:
    return nn.Identity() if norm == "none" else ScaledNorm(dim, scale, norm)
