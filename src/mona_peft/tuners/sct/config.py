"""Configuration of the SCT tuner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from mona_peft.tuners.base.config import BlockTunerConfig, check_count, check_number, check_positions


@dataclass
class SCTConfig(BlockTunerConfig):
    """Configuration of an [`SCTModel`].

    SCT maps the most salient channels of the residual stream by a square matrix and adds the result to them ("SCT: A
    Simple Baseline for Parameter-Efficient Fine-Tuning via Salient Channels", IJCV 2023,
    https://arxiv.org/abs/2309.08513). Which channels they are is found on training data before training, by
    [`select_salient_channels`], and saved with the adapter.

    Args:
        num_channels (`int`): Channels K to map; all of them in blocks with fewer.
        sct_scale (`float`): Factor of what is added; the authors choose one for each data set, most often 0.15.
        positions (`tuple[str, ...]`): Which streams: after `"attention"`, as in the authors' experiments, after the
            `"mlp"`, or both.

    Raises:
        ValueError: If a value is not one of those above.
    """

    method: ClassVar[str] = "sct"

    num_channels: int = field(
        default=96, metadata={"help": "Channels of a block that are mapped; 96 in the paper, an eighth of ViT-B's."}
    )
    sct_scale: float = field(
        default=0.15,
        metadata={"help": "Factor of what the adapter adds; 0.15 in many of the authors' settings, up to 0.4."},
    )
    positions: tuple[str, ...] | str = field(
        default=("attention",),
        metadata={"help": "Streams to adapt: after 'attention' (recommended, the authors'), after 'mlp', or both."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("num_channels", self.num_channels, 96)
        check_number("sct_scale", self.sct_scale, 0.15)
        self.positions = check_positions(self.positions)
