"""Which modules are transformer blocks, where their residual stream can be reached, and where the token grid is known.

One row for each block class. A row says which child of the block starts the MLP branch (its input is the residual
stream after attention), how the height and width of the token grid are found, and how many tokens stand before and
after the patch tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class BlockSpec:
    """Where the residual stream of one class of transformer blocks is and how its tokens are laid out.

    Args:
        block (`str`): Name of the block's class.
        entry (`str`): Path, inside the block, of the first module of the MLP branch.
        grid (`str`): Where the grid's height and width come from: `"patch_embed"` (the output of the patch
            embedding's convolution), `"channels_last"` (the block's input is `(B, H, W, C)`), or the names of
            arguments of the block's forward, separated by commas: one that holds `(height, width)`, or two.
        prefix_tokens (`tuple[int | str, ...]`): Tokens before the patch tokens: a sum of numbers and of attributes
            of the nearest enclosing module or its `config`.
        suffix_tokens (`tuple[int | str, ...]`): Tokens after the patch tokens, given alike.
        package (`str`): Prefix of the module that defines the class; empty for any.
    """

    block: str
    entry: str
    grid: str = "patch_embed"
    prefix_tokens: tuple[int | str, ...] = ()
    suffix_tokens: tuple[int | str, ...] = ()
    package: str = "transformers.models."

    def matches(self, module: nn.Module) -> bool:
        """Whether `module` is a block of this class, adapted or not."""
        return any(c.__name__ == self.block and c.__module__.startswith(self.package) for c in type(module).__mro__)


HEAD_NAMES = ("head", "heads", "classifier", "fc", "head_dist")

BLOCK_SPECS: tuple[BlockSpec, ...] = (
    BlockSpec("SwinLayer", entry="layernorm_after", grid="input_dimensions"),
    BlockSpec("ViTLayer", entry="layernorm_after", prefix_tokens=(1,)),
)


def find_spec(module: nn.Module) -> BlockSpec | None:
    """Return the row of the table for `module`, or None if it is not a known block."""
    return next((spec for spec in BLOCK_SPECS if spec.matches(module)), None)


def find_blocks(model: nn.Module) -> dict[str, BlockSpec]:
    """Return the known blocks of `model` by module name, from the input to the output."""
    named = ((name, find_spec(module)) for name, module in model.named_modules() if name)
    return {name: spec for name, spec in named if spec is not None}


def known_block_classes() -> list[str]:
    """Names of the block classes in the table, for messages."""
    return sorted({spec.block for spec in BLOCK_SPECS})


def ancestors(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """Yield the modules that contain the module `name` of `model`, the nearest first, `model` last."""
    while name:
        name = name.rpartition(".")[0]
        yield model.get_submodule(name)


def count_tokens(model: nn.Module, name: str, terms: tuple[int | str, ...]) -> int:
    """Add up `terms`: numbers, and attributes of the nearest module around block `name` (or of its config) that has one.

    Raises:
        ValueError: If an attribute is found nowhere.
    """
    return sum(_lookup(model, name, term) if isinstance(term, str) else term for term in terms)


def _lookup(model: nn.Module, name: str, attribute: str) -> int:
    for module in ancestors(model, name):
        for holder in (module, getattr(module, "config", None)):
            value = getattr(holder, attribute, None)
            if isinstance(value, int):
                return value
    raise ValueError(
        f"The number of extra tokens of block '{name}' is given by the attribute '{attribute}', which no module around "
        "the block has. Pass the block's layout in a `BlockSpec` with a number instead."
    )


def find_patch_embedding(model: nn.Module, name: str) -> nn.Conv2d | None:
    """Return the convolution that cut the image into the tokens block `name` sees, or None.

    It is the first convolution without overlap (stride equal to kernel) outside the blocks, in the nearest module
    around the block that has one.
    """
    inside = {id(module) for block in find_blocks(model) for module in model.get_submodule(block).modules()}
    for ancestor in ancestors(model, name):
        for module in ancestor.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == module.stride and id(module) not in inside:
                return module
    return None


def head_modules(model: nn.Module) -> list[str]:
    """Names of the children of a task model that are not its backbone and have parameters.

    transformers names the backbone of a task model in `base_model_prefix` or calls it `backbone`; in timm and
    torchvision the head stands beside the blocks and goes by one of a few names.
    """
    children = dict(model.named_children())
    backbone = next((n for n in (getattr(model, "base_model_prefix", ""), "backbone") if n in children), None)
    if hasattr(model, "out_features") and hasattr(model, "channels"):  # a backbone with its output norms
        names: list[str] = []
    elif backbone is not None:
        names = [name for name in children if name != backbone]
    else:
        names = [name for name in children if name in HEAD_NAMES]
    return [name for name in names if any(True for _ in children[name].parameters())]
