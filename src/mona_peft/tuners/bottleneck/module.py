"""The bottleneck adapter as a plain module.

Paper: "Parameter-Efficient Transfer Learning for NLP" (Houlsby et al., ICML 2019, https://arxiv.org/abs/1902.00751);
"Adapter" in the comparison of arXiv 2408.08345.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Bottleneck(nn.Module):
    """Two linear layers around a bottleneck: `x + scale * Up(Dropout(GELU(Down(x))))`.

    Args:
        dim (`int`): Channels m.
        bottleneck_dim (`int`): Channels n between the layers.
        dropout (`float`): Dropout probability before the up projection.
        scale (`float`): Factor of what is added.
        init_weights (`bool`): True for a module that starts as the identity; False for PyTorch's own weights.
    """

    def __init__(
        self, dim: int, bottleneck_dim: int = 64, dropout: float = 0.1, scale: float = 1.0, init_weights: bool = True
    ) -> None:
        super().__init__()
        self.scale = scale
        self.down = nn.Linear(dim, bottleneck_dim)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(bottleneck_dim, dim)
        if init_weights:
            for tensor in (self.down.bias, self.up.weight, self.up.bias):
                nn.init.zeros_(tensor)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., m)` to the same shape."""
        return x + self.delta(x)

    def delta(self, x: Tensor) -> Tensor:
        """What the adapter adds to `x`, `(..., m)`."""
        result = self.up(self.dropout(F.gelu(self.down(x))))
        return result if self.scale == 1.0 else self.scale * result
