"""Configuration of the Mona tuner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mona_peft.tuners.base.config import POSITIONS, BlockTunerConfig, check_count, check_dropout, check_positions

VARIANTS = ("v1", "v2", "v3", "final")
SCALES = ("channel", "scalar")
NORMS = ("layer", "batch", "none")
OUTPUT_SCALES = ("none", "stream")
LARGEST_KERNEL = 63
MOST_KERNELS = 8


@dataclass
class MonaConfig(BlockTunerConfig):
    """Configuration of a [`MonaModel`].

    Mona (Multi-cognitive Visual Adapter) puts a small convolutional adapter on the residual stream after the attention
    and after the MLP of each block ("5%>100%: Breaking Performance Shackles of Full Fine-Tuning on Visual Recognition
    Tasks", CVPR 2025, https://arxiv.org/abs/2408.08345).

    Args:
        bottleneck_dim (`int`): Channels n of the bottleneck.
        kernel_sizes (`tuple[int, ...]`): Sizes of the depthwise filters, odd.
        mona_dropout (`float`): Dropout before the up projection, in [0, 1).
        positions (`tuple[str, ...]`): Where the adapters act: `"attention"`, `"mlp"` or both.
        variant (`str`): Design of the adapter: `"final"`, or `"v1"`, `"v2"`, `"v3"` of the paper's design study.
        scale (`str`): Scales of the scaled norm: `"channel"` (official code) or `"scalar"` (the paper's count).
        conv_bias (`bool`): Whether the convolutions have biases: True (official code), False (the paper's count).
        init_weights (`bool` or `"official"`): True starts as the base model (the up projection is zero);
            `"official"` as the official code does; False at random.
        norm (`str`): What the scaled norm scales: `"layer"` norm, `"batch"` norm (the paper found it worse), or
            `"none"` for no scaled norm.
        output_scale (`str`): What is multiplied with what the adapter adds to a token: `"none"` (nothing, as in the
            paper), or `"stream"`, the root mean square of that token. No part of the paper: it is for ViTs whose
            residual stream is small in most blocks, such as DINOv2's (`docs/choosing.md` has the figures).

    The fields that choose the blocks are those of `BlockTunerConfig`.

    Raises:
        ValueError: If a value is not one of those above.
    """

    method: ClassVar[str] = "mona"
    sizes: ClassVar[tuple[str, ...]] = ("bottleneck_dim",)
    known_inits: ClassVar[tuple[bool | str, ...]] = (True, False, "official")

    bottleneck_dim: int = field(
        default=64, metadata={"help": "Bottleneck channels; 64 in the paper, 16 to 32 for few-shot data."}
    )
    kernel_sizes: tuple[int, ...] = field(
        default=(3, 5, 7), metadata={"help": "Sizes of the depthwise filters, odd; (3, 5, 7) in the paper (best)."}
    )
    mona_dropout: float = field(
        default=0.1, metadata={"help": "Dropout before the up projection; 0.1 in the authors' code."}
    )
    positions: tuple[str, ...] | str = field(
        default=POSITIONS,
        metadata={"help": "Where in a block adapters act: after 'attention', after 'mlp', or both as in the paper."},
    )
    variant: Literal["v1", "v2", "v3", "final"] = field(
        default="final",
        metadata={"help": "Design of the adapter: 'final' (recommended), or 'v1', 'v2', 'v3' of the design study."},
    )
    scale: Literal["channel", "scalar"] = field(
        default="channel",
        metadata={
            "help": "Scales of the scaled norm: one a 'channel' (recommended, the authors' code), or one 'scalar'."
        },
    )
    conv_bias: bool = field(
        default=True, metadata={"help": "Whether the convolutions have biases; True in the authors' code."}
    )
    init_weights: bool | Literal["official"] = field(  # type: ignore[assignment]
        default=True,
        metadata={
            "help": "True (recommended) starts as the base model, 'official' as the authors' code, False at random."
        },
    )
    norm: Literal["layer", "batch", "none"] = field(
        default="layer",
        metadata={"help": "Norm inside the scaled norm: 'layer' (best in the paper), 'batch', or 'none' at all."},
    )

    output_scale: Literal["none", "stream"] = field(
        default="none",
        metadata={
            "help": "What the adapter adds is multiplied by 'none' (the paper's; recommended for Swin), or by the "
            "size of the 'stream' at each token (worth trying for DINOv2)."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.kernel_sizes = tuple(self.kernel_sizes)
        self.positions = check_positions(self.positions)
        check_count("bottleneck_dim", self.bottleneck_dim, 64)
        check_dropout("mona_dropout", self.mona_dropout)
        odd = all(0 < size <= LARGEST_KERNEL and size % 2 for size in self.kernel_sizes)
        if not odd or not 0 < len(self.kernel_sizes) <= MOST_KERNELS:
            raise ValueError(
                f"kernel_sizes={self.kernel_sizes!r} must hold odd positive numbers, such as (3, 5, 7), up to "
                f"{MOST_KERNELS} of them and none above {LARGEST_KERNEL}: only a kernel with a centre keeps the grid "
                "as it is."
            )
        known_values = {"variant": VARIANTS, "scale": SCALES, "norm": NORMS, "output_scale": OUTPUT_SCALES}
        for name, known in known_values.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; it must be one of {known}.")
