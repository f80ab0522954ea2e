"""Configuration of the AdaptFormer tuner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from mona_peft.tuners.base.config import BlockTunerConfig, check_count, check_dropout, check_number


@dataclass
class AdaptFormerConfig(BlockTunerConfig):
    """Configuration of an [`AdaptFormerModel`].

    AdaptFormer puts a scaled bottleneck beside the MLP of each block; both read the stream after attention
    ("AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition", NeurIPS 2022,
    https://arxiv.org/abs/2205.13535).

    Args:
        bottleneck_dim (`int`): Channels n of the bottleneck.
        adaptformer_dropout (`float`): Dropout before the up projection, in [0, 1).
        adaptformer_scale (`float`): Factor of what is added.

    Raises:
        ValueError: If a value is not one of those above.
    """

    method: ClassVar[str] = "adaptformer"

    bottleneck_dim: int = field(default=64, metadata={"help": "Channels of the bottleneck."})
    adaptformer_dropout: float = field(default=0.1, metadata={"help": "Dropout probability before the up projection."})
    adaptformer_scale: float = field(default=0.1, metadata={"help": "Factor of what the adapter adds."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("bottleneck_dim", self.bottleneck_dim, 64)
        check_dropout("adaptformer_dropout", self.adaptformer_dropout)
        check_number("adaptformer_scale", self.adaptformer_scale, 0.1)
