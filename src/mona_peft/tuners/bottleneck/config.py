"""Configuration of the bottleneck tuner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mona_peft.tuners.base.config import POSITIONS, BlockTunerConfig, check_count, check_dropout, check_positions


@dataclass
class BottleneckConfig(BlockTunerConfig):
    """Configuration of a [`BottleneckModel`].

    Bottleneck adapters act on the attention output and on the MLP output of each block, before the residual additions
    (Houlsby et al., ICML 2019, https://arxiv.org/abs/1902.00751; "Adapter" in arXiv 2408.08345).

    Args:
        bottleneck_dim (`int`): Channels n of the bottleneck.
        bottleneck_dropout (`float`): Dropout before the up projection, in [0, 1).
        positions (`tuple[str, ...]`): Which outputs: of the `"attention"`, of the `"mlp"` or both.
        init_weights (`bool` or `"official"`): True starts as the base model (the up projection is zero);
            `"official"` as the code of arXiv 2408.08345 does; False at random.

    Raises:
        ValueError: If a value is not one of those above.
    """

    method: ClassVar[str] = "bottleneck"
    sizes: ClassVar[tuple[str, ...]] = ("bottleneck_dim",)
    known_inits: ClassVar[tuple[bool | str, ...]] = (True, False, "official")

    bottleneck_dim: int = field(
        default=64, metadata={"help": "Bottleneck channels; 64 in the comparison, 16 to 32 for few-shot data."}
    )
    bottleneck_dropout: float = field(
        default=0.1, metadata={"help": "Dropout before the up projection; 0.1, or 0 with strong augmentation."}
    )
    positions: tuple[str, ...] | str = field(
        default=POSITIONS,
        metadata={"help": "Outputs of a block to adapt: 'attention', 'mlp', or both as in the paper (best)."},
    )
    init_weights: bool | Literal["official"] = field(  # type: ignore[assignment]
        default=True,
        metadata={"help": "True starts as the base model, 'official' as the code of the comparison, False at random."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("bottleneck_dim", self.bottleneck_dim, 64)
        check_dropout("bottleneck_dropout", self.bottleneck_dropout)
        self.positions = check_positions(self.positions)
