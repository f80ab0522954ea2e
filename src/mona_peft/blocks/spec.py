"""What has to be known of a class of transformer blocks to adapt its residual stream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from torch import nn

#: Among the suffix tokens: however many tokens are left, as padding is.
PADDING = "*"

#: Sources of the grid of blocks whose results are images, `(B, C, H, W)` and `(B, H, W, C)`.
IMAGES = ("channels_first", "channels_last")

#: How patches stand in a sequence where they are not row by row in a batch; see [`BlockSpec`].
SEQUENCES = ("packed", "packed_windows", "unrolled")

#: Where the norm that starts the MLP branch goes by one of these names, the norm before attention goes by the other.
NORM_BEFORE_ATTENTION = {
    "layernorm_after": "layernorm_before",
    "norm2": "norm1",
    "layer_norm2": "layer_norm1",
    "layer_norm_2": "layer_norm_1",
    "rms_norm2": "rms_norm1",
    "ln_2": "ln_1",
}


@dataclass(frozen=True)
class BlockSpec:
    """Where the residual stream of one class of transformer blocks is and how its tokens are laid out.

    The identity that adapters rely on has to hold: the block must compute `x1 + MLP(entry(x1))` from the stream after
    attention x1, and `entry` must be called once, with x1 as its first argument. A convolutional block has no such
    stream inside it and no `entry`: adapters act on its result alone.

    Args:
        block (`str` or `type`): The block's class, or its name.
        entry (`str`): Path, inside the block, of the first module of the MLP branch; empty for a convolutional block,
            whose result is an image (`grid="channels_first"` or `"channels_last"`).
        grid (`str`): Where the grid's height and width come from: `"patch_embed"` (the output of the patch
            embedding's convolution), `"channels_last"` (the block's input is `(B, H, W, C)`), `"channels_first"` (it
            is `(B, C, H, W)`), the names of arguments of the block's forward, separated by commas (one that holds
            `(height, width)`, or two), `"module.argument"`, an argument of a module outside the blocks, or
            `".argument"`, one of the nearest module around the block that has it.
        prefix_tokens (`tuple[int | str, ...]`): Tokens before the patch tokens: a sum of numbers and of attributes
            of the nearest enclosing module or its `config`.
        suffix_tokens (`tuple[int | str, ...]`): Tokens after the patch tokens, given so too; `"*"` for any number.
        optional_tokens (`tuple[int | str, ...]`): Further tokens before the others, which some blocks get and some do
            not; their number tells.
        order (`str`): Name of a module outside the blocks that shuffles the patch tokens: the last item of its output
            holds each patch's place among them, `(B, N)`. Empty if they are in order.
        sequence (`str`): Where the patches are not row by row. `"packed"`: those of all images of a batch follow one
            another in `(N, C)`, each image by squares of `spatial_merge_size` patches, as in Qwen2-VL, and the grids
            are rows `(time, height, width)`; `"packed_windows"`: the squares by windows of `window_size` pixels too,
            as in Qwen2.5-VL; `"unrolled"`: in the order in which Hiera pools them. Empty if they are row by row.
        package (`str`): Module that defines the class, or a package above it; empty for any.
        inside (`str`): How the class name of a module around the block must begin; empty for any.
        refusal (`str`): Why these blocks cannot be adapted exactly; empty if they can.
        refuse_if (`str`): Attribute of the block whose truth brings about the refusal; empty for always.
        norm (`str`): Path, inside the block, of the norm whose output the attention branch reads, if `entry` is the
            norm that the MLP branch reads. By default what goes with `entry`'s name (`"norm1"` with `"norm2"`).

    Raises:
        ValueError: If a value is of another kind.
    """

    block: str
    entry: str = ""
    grid: str = "patch_embed"
    prefix_tokens: tuple[int | str, ...] = ()
    suffix_tokens: tuple[int | str, ...] = ()
    optional_tokens: tuple[int | str, ...] = ()
    order: str = ""
    sequence: str = ""
    package: str = ""
    inside: str = ""
    refusal: str = ""
    refuse_if: str = ""
    norm: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.block, type):
            object.__setattr__(self, "block", self.block.__name__)
        for name in ("prefix_tokens", "suffix_tokens", "optional_tokens"):
            object.__setattr__(self, name, _terms(name, getattr(self, name)))
        texts = {f.name: getattr(self, f.name) for f in fields(self) if not f.name.endswith("_tokens")}
        wrong = {name: value for name, value in texts.items() if not isinstance(value, str)}
        if self.sequence not in ("", *SEQUENCES):
            raise ValueError(f"sequence={self.sequence!r} must be one of {SEQUENCES}, or empty.")
        reachable = self.entry or self.refusal or self.grid in IMAGES
        if wrong or not self.block or not reachable or not self.grid:
            raise ValueError(
                f"BlockSpec(block={self.block!r}, entry={self.entry!r}, grid={self.grid!r}) needs the block's class, "
                "the path of its MLP branch's first module (none if the block is convolutional and its grid is one of "
                f"{IMAGES}) and a source of the grid, all as strings; {wrong} are not."
            )

    @property
    def attention_norm(self) -> str:
        """Path of the norm before attention; empty where the branches read the residual stream as it is."""
        return self.norm or NORM_BEFORE_ATTENTION.get(self.entry, "")

    def describes(self, cls: type) -> bool:
        """Whether this is the row of exactly this class."""
        module = cls.__module__
        in_package = not self.package or module == self.package or module.startswith(f"{self.package}.")
        return cls.__name__ == self.block and in_package

    def matches(self, module: nn.Module) -> bool:
        """Whether `module` is a block of this class or of one derived from it, adapted or not."""
        return any(self.describes(cls) for cls in type(module).__mro__)

    def refuses(self, module: nn.Module) -> bool:
        """Whether the block `module` cannot be adapted exactly, for the reason `refusal`."""
        return bool(self.refusal) and (not self.refuse_if or bool(getattr(module, self.refuse_if, False)))


def read_block_specs(value: object) -> list[BlockSpec] | None:
    """Turn what a configuration holds, `BlockSpec`s or their dictionaries, into `BlockSpec`s.

    Args:
        value (`BlockSpec`, `dict`, or a list of them, *optional*): What the user or a file gave.

    Raises:
        ValueError: If it is something else, or has unknown fields.
    """
    if value is None:
        return None
    items = [value] if isinstance(value, (BlockSpec, Mapping)) else value
    if isinstance(items, str) or not isinstance(items, Iterable):
        raise ValueError(f"block_specs={value!r} must be a list of `BlockSpec`s.")
    return [_read_one(item) for item in items]


def _read_one(item: object) -> BlockSpec:
    if isinstance(item, BlockSpec):
        return item
    known = {f.name for f in fields(BlockSpec)}
    if not isinstance(item, Mapping) or not set(item) <= known or "block" not in item:
        raise ValueError(f"block_specs holds {item!r}, which is no `BlockSpec`: its fields are {sorted(known)}.")
    return BlockSpec(**item)


def _terms(name: str, value: int | str | Iterable[int | str]) -> tuple[int | str, ...]:
    terms = (value,) if isinstance(value, (int, str)) else tuple(value)
    if any(isinstance(term, bool) or not isinstance(term, (int, str)) for term in terms):
        raise ValueError(f"{name}={value!r} must hold numbers and names of attributes.")
    if any(isinstance(term, int) and term < 0 for term in terms):
        raise ValueError(f"{name}={value!r} must not be negative.")
    return terms
