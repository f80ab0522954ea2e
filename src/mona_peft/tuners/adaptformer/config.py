"""Configuration of the AdaptFormer tuner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mona_peft.tuners.base.config import BlockTunerConfig, check_count, check_dropout, check_number
from mona_peft.tuners.bottleneck.module import ACTIVATIONS


@dataclass
class AdaptFormerConfig(BlockTunerConfig):
    """Configuration of an [`AdaptFormerModel`].

    AdaptFormer puts a scaled bottleneck parallel to the MLP of each block; both read the stream after attention
    ("AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition", NeurIPS 2022,
    https://arxiv.org/abs/2205.13535).

    Args:
        bottleneck_dim (`int`): Channels n of the bottleneck.
        adaptformer_dropout (`float`): Dropout before the up projection, in [0, 1).
        adaptformer_scale (`float`): Factor of what is added.
        adaptformer_activation (`str`, *optional*): `"relu"`, as in the authors' code, or `"gelu"`. Files of releases
            before this field was there do not name it; their adapters were trained with `"gelu"` and keep it.
        init_weights (`bool` or `"official"`): True starts as the base model (the up projection is zero);
            `"official"` as the code of arXiv 2408.08345 does; False at random.

    Raises:
        ValueError: If a value is not one of those above.
    """

    method: ClassVar[str] = "adaptformer"
    sizes: ClassVar[tuple[str, ...]] = ("bottleneck_dim",)
    known_inits: ClassVar[tuple[bool | str, ...]] = (True, False, "official")

    bottleneck_dim: int = field(
        default=64, metadata={"help": "Bottleneck channels; 64 in the paper, 16 to 32 for few-shot data."}
    )
    adaptformer_dropout: float = field(
        default=0.1, metadata={"help": "Dropout before the up projection; 0.1 in the authors' settings."}
    )
    adaptformer_scale: float = field(
        default=0.1, metadata={"help": "Factor of what the adapter adds; 0.1 in the paper."}
    )
    adaptformer_activation: Literal["relu", "gelu"] | None = field(
        default=None,
        metadata={
            "help": "Activation in the bottleneck; 'relu' as in the authors' code, the default of new adapters."
        },
    )
    init_weights: bool | Literal["official"] = field(  # type: ignore[assignment]
        default=True,
        metadata={"help": "True starts as the base model, 'official' as the code of the comparison, False at random."},
    )

    def __post_init__(self) -> None:
        if self.adaptformer_activation is None:  # PEFT writes its version into every file
            self.adaptformer_activation = "relu" if self.peft_version is None else "gelu"
        super().__post_init__()
        if self.adaptformer_activation not in ACTIVATIONS:
            raise ValueError(
                f"adaptformer_activation={self.adaptformer_activation!r} is unknown; it must be 'relu' or 'gelu'."
            )
        check_count("bottleneck_dim", self.bottleneck_dim, 64)
        check_dropout("adaptformer_dropout", self.adaptformer_dropout)
        check_number("adaptformer_scale", self.adaptformer_scale, 0.1)
