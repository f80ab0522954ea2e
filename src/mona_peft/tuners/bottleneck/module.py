"""The bottleneck adapter as a plain module.

Paper: "Parameter-Efficient Transfer Learning for NLP" (Houlsby et al., ICML 2019, https://arxiv.org/abs/1902.00751);
"Adapter" in the comparison of arXiv 2408.08345.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

#: The nonlinear functions between the layers, by name.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu}


class Bottleneck(nn.Module):
    """Two linear layers around a bottleneck: `x + scale * Up(Dropout(activation(Down(x))))`.

    Args:
        dim (`int`): Channels m.
        bottleneck_dim (`int`): Channels n between the layers.
        dropout (`float`): Dropout probability before the up projection.
        scale (`float`): Factor of what is added.
        init_weights (`bool` or `"official"`): True for a module that starts as the identity; `"official"` as in the
            code of arXiv 2408.08345, truncated normal of 0.02 and zero biases; False for PyTorch's own weights.
        activation (`str`): `"gelu"` or `"relu"`.
    """

    def __init__(
        self,
        dim: int,
        bottleneck_dim: int = 64,
        dropout: float = 0.1,
        scale: float = 1.0,
        init_weights: bool | str = True,
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        self.scale = scale
        self.activation = activation
        self.down = nn.Linear(dim, bottleneck_dim)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(bottleneck_dim, dim)
        self.reset_parameters(init_weights)

    def reset_parameters(self, init_weights: bool | str = True) -> None:
        """Give both layers their first weights."""
        if init_weights == "official":
            for linear in (self.down, self.up):
                nn.init.trunc_normal_(linear.weight, std=0.02)
        elif init_weights:
            nn.init.zeros_(self.up.weight)
        if init_weights:
            nn.init.zeros_(self.down.bias)
            nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor, residual: bool = True) -> Tensor:
        """Map `(..., m)` to the same shape.

        Args:
            x (`Tensor`): The input.
            residual (`bool`): Whether `x` itself is part of the result.
        """
        added = self.up(self.dropout(ACTIVATIONS[self.activation](self.down(x))))
        added = added if self.scale == 1.0 else self.scale * added
        return x + added if residual else added

    def delta(self, x: Tensor) -> Tensor:
        """What the adapter adds to `x`, `(..., m)`; a call of the module, so that its hooks run."""
        return self(x, residual=False)
