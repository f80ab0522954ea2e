"""The convolutional bypass as a plain module.

Paper: "Convolutional Bypasses Are Better Vision Transformer Adapters" (https://arxiv.org/abs/2207.07039). Reference:
the authors' code (https://github.com/JieShibo/PETL-ViT, folder `convpass`), which this follows in activation, order
and first weights. Deviations: stochastic depth acts on the branches alone, not on the bypasses; any grid is allowed,
and any number of other tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mona_peft.blocks.layout import TokenLayout


def quick_gelu(x: Tensor) -> Tensor:
    """`x * sigmoid(1.702 x)`."""
    return x * torch.sigmoid(1.702 * x)


def convolve(convolution: nn.Conv2d, z: Tensor, layout: TokenLayout) -> Tensor:
    """Convolve the patch tokens on their grid, and each extra token as a 1x1 grid of its own.

    Args:
        convolution (`nn.Conv2d`): Of odd size, keeps height and width by zero padding: only its centre tap acts on a
            1x1 grid.
        z (`Tensor`): `(B, N, C)`, N = prefix + height * width + suffix.
        layout (`TokenLayout`): Of the N tokens.
    """
    height, width, prefix, suffix = layout
    before, patches, after = z.split([prefix, height * width, suffix], dim=1)
    image = patches.unflatten(1, (height, width)).permute(0, 3, 1, 2)  # (B, C, H, W), a view
    convolved = convolution(image).flatten(2).mT  # (B, H * W, C)
    if not (prefix or suffix):
        return convolved
    extra = torch.cat([before, after], dim=1)  # (B, prefix + suffix, C)
    single = convolution(extra.flatten(0, 1)[..., None, None]).reshape(extra.shape)
    before, after = single.split([prefix, suffix], dim=1)
    return torch.cat([before, convolved, after], dim=1)


class Convpass(nn.Module):
    """A convolutional bypass: `scale * Up(Dropout(QuickGELU(Conv3x3(QuickGELU(Down(x))))))`.

    Args:
        dim (`int`): Channels m.
        bottleneck_dim (`int`): Channels h between the linear layers.
        dropout (`float`): Dropout probability before the up projection.
        scale (`float`): Factor of what is added.
        init_weights (`bool`): True for a module that starts by adding nothing, as the authors': Up and all biases
            zero, the convolution the identity, Down Xavier uniform; False for PyTorch's own weights.
    """

    def __init__(
        self, dim: int, bottleneck_dim: int = 8, dropout: float = 0.1, scale: float = 1.0, init_weights: bool = True
    ) -> None:
        super().__init__()
        self.dim = dim
        self.scale = scale
        self.down = nn.Linear(dim, bottleneck_dim)
        self.conv = nn.Conv2d(bottleneck_dim, bottleneck_dim, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(bottleneck_dim, dim)
        if init_weights:
            for tensor in (self.down.bias, self.conv.bias, self.up.weight, self.up.bias):
                nn.init.zeros_(tensor)  # type: ignore[arg-type]
            nn.init.dirac_(self.conv.weight)
            nn.init.xavier_uniform_(self.down.weight)

    def forward(self, x: Tensor, layout: TokenLayout) -> Tensor:
        """What the bypass adds, computed from the normalised `x`.

        Args:
            x (`Tensor`): `(B, N, m)`, or `(B, H, W, m)` without extra tokens.
            layout (`TokenLayout`): How the N tokens are laid out.

        Returns:
            `Tensor`: In the shape of `x`.
        """
        z = quick_gelu(self.down(x.flatten(1, -2)))
        z = quick_gelu(convolve(self.conv, z, layout))
        result = self.up(self.dropout(z)).reshape(x.shape)
        return result if self.scale == 1.0 else self.scale * result

    def delta(self, x: Tensor, layout: TokenLayout) -> Tensor:
        """See `forward`; a call of the module, so that its hooks run."""
        return self(x, layout)
