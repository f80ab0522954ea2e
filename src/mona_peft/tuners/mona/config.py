"""Configuration of the Mona tuner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from peft import PeftConfig

from ...block_spec import BlockSpec, read_block_specs
from ...registry import add_peft_type

POSITIONS = ("attention", "mlp")
VARIANTS = ("v1", "v2", "v3", "final")
SCALES = ("channel", "scalar")
NORMS = ("layer", "batch", "none")


@dataclass
class MonaConfig(PeftConfig):
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
        target_modules (`list[str]` or `str`, *optional*): The blocks to adapt, as suffixes of their names or a regular
            expression; by default all known blocks.
        exclude_modules (`list[str]` or `str`, *optional*): Blocks to leave out, given alike.
        layers_to_transform (`list[int]` or `int`, *optional*): Indices of the blocks to adapt, counted over the whole
            backbone from the input; negative from the output.
        layers_pattern (`list[str]` or `str`, *optional*): Names of the containers whose blocks are counted.
        modules_to_save (`list[str]`, *optional*): Modules beside the adapters to train and save, such as the head.
        block_specs (`list[BlockSpec]`, *optional*): Layouts of blocks that this package does not know, or others
            for those that it does.

    Raises:
        ValueError: If a value is not one of those above.
    """

    bottleneck_dim: int = field(default=64, metadata={"help": "Channels of the bottleneck."})
    kernel_sizes: tuple[int, ...] = field(
        default=(3, 5, 7), metadata={"help": "Sizes of the depthwise filters; odd numbers."}
    )
    mona_dropout: float = field(default=0.1, metadata={"help": "Dropout probability before the up projection."})
    positions: tuple[str, ...] = field(
        default=POSITIONS,
        metadata={"help": "Where in a block the adapters act: after the 'attention', after the 'mlp', or both."},
    )
    variant: Literal["v1", "v2", "v3", "final"] = field(
        default="final", metadata={"help": "Design of the adapter: 'final', or 'v1', 'v2', 'v3' of the design study."}
    )
    scale: Literal["channel", "scalar"] = field(
        default="channel",
        metadata={"help": "Scales of the scaled norm: one a 'channel' (official code) or one 'scalar' (the paper)."},
    )
    conv_bias: bool = field(
        default=True, metadata={"help": "Whether the convolutions have biases: True in the official code."}
    )
    init_weights: bool | Literal["official"] = field(
        default=True,
        metadata={"help": "True starts as the base model, 'official' as the official code, False at random."},
    )
    norm: Literal["layer", "batch", "none"] = field(
        default="layer",
        metadata={"help": "What the scaled norm scales: 'layer' norm, 'batch' norm, or 'none' at all."},
    )
    target_modules: list[str] | str | None = field(
        default=None,
        metadata={"help": "Blocks to adapt: suffixes of their names or a regular expression; None for all known."},
    )
    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Blocks to leave out: suffixes of their names or a regular expression."}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None,
        metadata={"help": "Indices of the blocks to adapt, counted from the input over the whole backbone."},
    )
    layers_pattern: list[str] | str | None = field(
        default=None, metadata={"help": "Names of the containers whose blocks `layers_to_transform` counts."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules to train and save with the adapter, such as the head."}
    )
    block_specs: list[BlockSpec] | None = field(
        default=None, metadata={"help": "Layouts of further classes of blocks; they go before the known ones."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = add_peft_type("MONA")
        self.kernel_sizes = tuple(self.kernel_sizes)
        self.positions = (self.positions,) if isinstance(self.positions, str) else tuple(self.positions)
        self.block_specs = read_block_specs(self.block_specs)
        for name in ("target_modules", "exclude_modules"):
            if isinstance(getattr(self, name), (set, tuple)):
                setattr(self, name, sorted(getattr(self, name)))
        self._check_numbers()
        self._check_names()

    def _check_numbers(self) -> None:
        if not _is_int(self.bottleneck_dim) or self.bottleneck_dim < 1:
            raise ValueError(
                f"bottleneck_dim={self.bottleneck_dim!r} must be a whole number of at least 1, such as 64."
            )
        if not self.kernel_sizes or not all(_is_int(k) and k > 0 and k % 2 for k in self.kernel_sizes):
            raise ValueError(
                f"kernel_sizes={self.kernel_sizes!r} must hold odd positive numbers, such as (3, 5, 7): only a kernel "
                "with a centre keeps the grid as it is."
            )
        if isinstance(self.mona_dropout, bool) or not 0.0 <= self.mona_dropout < 1.0:
            raise ValueError(f"mona_dropout={self.mona_dropout!r} must be a probability of at least 0 and below 1.")

    def _check_names(self) -> None:
        if (
            not self.positions
            or not set(self.positions) <= set(POSITIONS)
            or len(set(self.positions)) < len(self.positions)
        ):
            raise ValueError(f"positions={self.positions!r} must be 'attention', 'mlp' or both, each once.")
        for name, known in (("variant", VARIANTS), ("scale", SCALES), ("norm", NORMS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; it must be one of {known}.")
        if not (isinstance(self.init_weights, bool) or self.init_weights == "official"):
            raise ValueError(f"init_weights={self.init_weights!r} must be True, False or 'official'.")
        if not isinstance(self.conv_bias, bool):
            raise ValueError(f"conv_bias={self.conv_bias!r} must be True or False.")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
