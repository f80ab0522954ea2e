"""Configuration of the LoRand tuner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from mona_peft.tuners.base.config import (
    LARGEST_IN_NARROW_BLOCKS,
    POSITIONS,
    BlockTunerConfig,
    check_count,
    check_dropout,
    check_positions,
)


@dataclass
class LoRandConfig(BlockTunerConfig):
    """Configuration of a [`LoRandModel`].

    LoRand acts where the bottleneck adapter does, on the attention output and on the MLP output of each block, with
    projections made of low-rank products ("1% VS 100%: Parameter-Efficient Low Rank Adapter for Dense Predictions",
    CVPR 2023).

    Args:
        lorand_alpha (`int`): Products in each projection.
        lorand_beta (`int`): Rank of each product.
        bottleneck_dim (`int`, *optional*): Channels of the bottleneck; by default half of the output's.
        lorand_dropout (`float`): Dropout before the up projection, in [0, 1).
        positions (`tuple[str, ...]`): Which outputs: of the `"attention"`, of the `"mlp"` or both.

    Raises:
        ValueError: If a value is not one of those above.
    """

    method: ClassVar[str] = "lorand"
    sizes: ClassVar[tuple[str, ...]] = ("bottleneck_dim", "lorand_alpha", "lorand_beta")

    lorand_alpha: int = field(
        default=2, metadata={"help": "Low-rank products in each projection; 2 in the paper, 4 for more capacity."}
    )
    lorand_beta: int = field(default=8, metadata={"help": "Rank of each product; 8 in the paper."})
    bottleneck_dim: int | None = field(
        default=None,
        metadata={"help": "Bottleneck channels; None (recommended) for half of the output's, as in the paper."},
    )
    lorand_dropout: float = field(
        default=0.1, metadata={"help": "Dropout before the up projection; 0.1, or 0 with strong augmentation."}
    )
    positions: tuple[str, ...] | str = field(
        default=POSITIONS,
        metadata={"help": "Outputs of a block to adapt: 'attention', 'mlp', or both as in the paper (best)."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("lorand_alpha", self.lorand_alpha, 2)
        check_count("lorand_beta", self.lorand_beta, 8)
        if self.bottleneck_dim is not None:
            check_count("bottleneck_dim", self.bottleneck_dim, 64)
        check_dropout("lorand_dropout", self.lorand_dropout)
        self.positions = check_positions(self.positions)

    def check_width(self, block: str, width: int) -> None:
        """Refuse sizes out of proportion to a block; see `BlockTunerConfig.check_width`."""
        super().check_width(block, width)
        if self.lorand_alpha * self.lorand_beta > max(4 * width, LARGEST_IN_NARROW_BLOCKS):
            raise ValueError(
                f"lorand_alpha={self.lorand_alpha} products of rank lorand_beta={self.lorand_beta} are too many for "
                f"block '{block}' of {width} channels; choose smaller ones."
            )
