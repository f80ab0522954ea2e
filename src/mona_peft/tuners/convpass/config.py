"""Configuration of the Convpass tuner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from mona_peft.tuners.base.config import (
    POSITIONS,
    BlockTunerConfig,
    check_count,
    check_dropout,
    check_number,
    check_positions,
)


@dataclass
class ConvpassConfig(BlockTunerConfig):
    """Configuration of a [`ConvpassModel`].

    One convolutional bypass is parallel to the attention and another to the MLP of each block; each reads the
    normalised tokens that its branch reads ("Convolutional Bypasses Are Better Vision Transformer Adapters",
    https://arxiv.org/abs/2207.07039).

    Args:
        bottleneck_dim (`int`): Channels h of the bottleneck.
        convpass_dropout (`float`): Dropout before the up projection, in [0, 1).
        convpass_scale (`float`): Factor s of what is added; the authors choose one for each data set.
        positions (`tuple[str, ...]`): Which branches get a bypass: `"attention"`, `"mlp"` or both.

    Raises:
        ValueError: If a value is not one of those above.
    """

    method: ClassVar[str] = "convpass"
    sizes: ClassVar[tuple[str, ...]] = ("bottleneck_dim",)

    bottleneck_dim: int = field(default=8, metadata={"help": "Bottleneck channels; 8 in the paper."})
    convpass_dropout: float = field(
        default=0.1, metadata={"help": "Dropout before the up projection; 0.1 in the authors' code."}
    )
    convpass_scale: float = field(
        default=1.0,
        metadata={"help": "Factor of what the adapter adds; 1, or one of 0.01 to 10 chosen for the data set."},
    )
    positions: tuple[str, ...] | str = field(
        default=POSITIONS,
        metadata={"help": "Branches that get a bypass: 'attention', 'mlp', or both as in the paper (best)."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("bottleneck_dim", self.bottleneck_dim, 8)
        check_dropout("convpass_dropout", self.convpass_dropout)
        check_number("convpass_scale", self.convpass_scale, 1.0)
        self.positions = check_positions(self.positions)
