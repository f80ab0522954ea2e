"""Configuration of the VPT tuner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from mona_peft.tuners.base.config import BlockTunerConfig, check_count, check_dropout


@dataclass
class VPTConfig(BlockTunerConfig):
    """Configuration of a [`VPTModel`].

    Deep visual prompts: each block gets learnt tokens of its own besides those of the image, which every token may
    attend to; what becomes of them is dropped after the block ("Visual Prompt Tuning", ECCV 2022,
    https://arxiv.org/abs/2203.12119). In Swin they join the tokens of every window, without a relative position, as
    in the authors' code. Prompts change attention whatever their values, so the adapted model does not start as the
    base model, and `init_weights` has no effect: prompts start within the authors' bound for the model's patches and
    the width of its first block.

    Args:
        vpt_tokens (`int`): Prompts a block.
        vpt_dropout (`float`): Dropout on the prompts, in [0, 1), with other values for each image.

    Raises:
        ValueError: If a value is not one of those above.
    """

    method: ClassVar[str] = "vpt"
    sizes: ClassVar[tuple[str, ...]] = ("vpt_tokens",)

    vpt_tokens: int = field(
        default=10, metadata={"help": "Prompts a block; 10, or 50 for data far from the pretraining."}
    )
    vpt_dropout: float = field(
        default=0.0, metadata={"help": "Dropout on the prompts, other for each image; 0 in the authors' settings."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("vpt_tokens", self.vpt_tokens, 10)
        check_dropout("vpt_dropout", self.vpt_dropout)
