"""What the configurations of this package's tuners have in common: which blocks they adapt, and the checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from peft import PeftConfig

from mona_peft.blocks.spec import BlockSpec, read_block_specs
from mona_peft.registry import add_peft_type

from .field_types import check_field_types
from .patterns import check_pattern

#: No size needs to be larger than the MLP of a block, or than this in narrow blocks.
LARGEST_IN_NARROW_BLOCKS = 1024

POSITIONS = ("attention", "mlp")
PROVIDED_BY = "mona-peft: import mona_peft before PEFT loads this adapter"


@dataclass
class BlockTunerConfig(PeftConfig):
    """Base of the configurations of tuners that adapt whole transformer blocks.

    Args:
        init_weights (`bool`): True starts as the base model; False at random.
        target_modules (`list[str]` or `str`, *optional*): The blocks to adapt, as suffixes of their names or a regular
            expression; by default all known blocks.
        exclude_modules (`list[str]` or `str`, *optional*): Blocks to leave out, given in the same way, or modules with
            all that is in them.
        layers_to_transform (`list[int]` or `int`, *optional*): Indices of the blocks to adapt, counted over the whole
            backbone from the input; negative from the output.
        layers_pattern (`list[str]` or `str`, *optional*): Names of the containers whose blocks `layers_to_transform`
            counts.
        modules_to_save (`list[str]`, *optional*): Modules to train and save besides the adapters, such as the head.
        block_specs (`list[BlockSpec]`, *optional*): Layouts of blocks that this package does not know, or others
            for those that it does.
        provided_by (`str`): Always `PROVIDED_BY`, for readers of `adapter_config.json`: PEFT alone does not know the
            method, and says no more than `KeyError`.
    """

    #: Name of the tuner as PEFT registers it; subclasses set it.
    method: ClassVar[str] = ""
    #: What `init_weights` may be.
    known_inits: ClassVar[tuple[bool | str, ...]] = (True, False)
    #: Fields that are sizes of an adapter.
    sizes: ClassVar[tuple[str, ...]] = ()
    #: Whether it came from a repository, whose weights are to follow.
    read_from_file: ClassVar[bool] = False

    init_weights: bool = field(
        default=True, metadata={"help": "True (recommended) starts as the base model, False at random."}
    )
    target_modules: list[str] | str | None = field(
        default=None,
        metadata={"help": "Blocks to adapt: suffixes of names, or a regular expression; None (recommended) for all."},
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
    provided_by: str = field(default=PROVIDED_BY, metadata={"help": "Tells readers of the file what it needs."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = add_peft_type(self.method.upper())
        self.provided_by = PROVIDED_BY
        self.block_specs = read_block_specs(self.block_specs)
        check_field_types(self)
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            if isinstance(value, str):
                check_pattern(name, value)
            elif isinstance(value, (set, tuple)):
                setattr(self, name, sorted(value))
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError(
                f"layers_pattern={self.layers_pattern!r} has no effect without layers_to_transform, whose indices "
                "count the blocks in these containers. Give the indices too, or choose blocks with target_modules."
            )
        if "" in (self.modules_to_save or ()):
            raise ValueError(f"modules_to_save={self.modules_to_save!r} has an empty name, in which every name ends.")
        if (type(self.init_weights), self.init_weights) not in [(type(known), known) for known in self.known_inits]:
            choices = " or ".join(map(repr, self.known_inits))
            raise ValueError(f"init_weights={self.init_weights!r} must be {choices}.")

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Self:
        """Read a configuration; see `PeftConfig.from_pretrained`."""
        config = super().from_pretrained(*args, **kwargs)
        config.read_from_file = True
        return config

    def check_width(self, block: str, width: int) -> None:
        """Refuse sizes out of proportion to a block, before memory is asked for.

        Args:
            block (`str`): The block's name.
            width (`int`): Channels of its residual stream.

        Raises:
            ValueError: If a size is; names the field, the value and the largest allowed.
        """
        limit = max(4 * width, LARGEST_IN_NARROW_BLOCKS)
        for name in self.sizes:
            value = getattr(self, name)
            if value is not None and value > limit:
                raise ValueError(
                    f"{name}={value} is too large for block '{block}' of {width} channels; give at most {limit}."
                )


def check_count(name: str, value: object, example: int) -> None:
    """Refuse what is not a whole number of at least 1.

    Raises:
        ValueError: If it is not; names the setting, the value and an example.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number of at least 1, such as {example}.")


def check_dropout(name: str, value: object) -> None:
    """Refuse what is not a probability below 1.

    Raises:
        ValueError: If it is not; names the setting and the value.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value < 1.0:
        raise ValueError(f"{name}={value!r} must be a probability of at least 0 and below 1.")


def check_number(name: str, value: object, example: float) -> None:
    """Refuse what is not a number.

    Raises:
        ValueError: If it is not; names the setting, the value and an example.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name}={value!r} must be a number, such as {example}.")


def check_positions(value: str | Sequence[str]) -> tuple[str, ...]:
    """Give back positions as a tuple.

    Raises:
        ValueError: If they are not `"attention"`, `"mlp"` or both.
    """
    positions = (value,) if isinstance(value, str) else tuple(value)
    if not positions or not set(positions) <= set(POSITIONS) or len(set(positions)) < len(positions):
        raise ValueError(f"positions={value!r} must be 'attention', 'mlp' or both, each once.")
    return positions
