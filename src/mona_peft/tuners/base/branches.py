"""Which modules end the attention branch and the MLP branch of a block: the last before the residual additions.

The names follow the conventions of the libraries that define the blocks, as the names of query and value do.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

OUTPUT_NAMES: dict[str, tuple[str, ...]] = {
    "attention": ("attention.o_proj", "attention.output.dense", "attn.proj", "self_attn.out_proj", "attention.dense"),
    "mlp": ("mlp.fc2", "output.dense", "mlp.dense2", "mlp.w3", "mlp.3"),
}


def output_path(block: nn.Module, position: str) -> str:
    """Path, inside `block`, of the last module of its attention or MLP branch.

    Args:
        block (`nn.Module`): A transformer block.
        position (`str`): `"attention"` or `"mlp"`.

    Raises:
        ValueError: If no known name is there.
    """
    modules = {name for name, _ in block.named_modules()}
    for path in OUTPUT_NAMES[position]:
        if path in modules:
            return path
    raise ValueError(
        f"{type(block).__name__} has no output projection of its {position} branch under any of the names "
        f"{OUTPUT_NAMES[position]}; it has {[name for name, _ in block.named_children()]}. "
        f"Choose positions without '{position}'."
    )


def output_modules(model: nn.Module, blocks: Sequence[str], positions: Sequence[str]) -> dict[str, str]:
    """Names of the output projections of `blocks`, with the position of each.

    Args:
        model (`nn.Module`): The model that contains the blocks.
        blocks (`Sequence[str]`): Names of blocks in it.
        positions (`Sequence[str]`): `"attention"`, `"mlp"` or both.
    """
    return {
        f"{name}.{output_path(model.get_submodule(name), position)}": position
        for name in blocks
        for position in positions
    }
