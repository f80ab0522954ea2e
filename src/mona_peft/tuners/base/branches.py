"""Which modules end the attention branch and the MLP branch of a block: the last before the residual additions.

The names follow the conventions of the libraries that define the blocks, as the names of query and value do.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import nn

OUTPUT_NAMES: dict[str, tuple[str, ...]] = {
    "attention": (
        "attention.o_proj",
        "attention.output.dense",
        "attn.proj",
        "self_attn.out_proj",
        "attention.dense",
    ),
    "mlp": ("mlp.fc2", "output.dense", "mlp.dense2", "mlp.w3", "mlp.3", "mlp.lin2", "mlp.proj_out"),
}

#: Layers of which a class takes the weights without calling them, so that what stands in their place never acts: the
#: package and the name of the class, their names in it, and whether it does so only where it adds biases of its own.
UNCALLED: tuple[tuple[str, str, tuple[str, ...], bool], ...] = (
    ("torch.nn", "MultiheadAttention", ("out_proj",), False),
    ("torchvision.models", "ShiftedWindowAttention", ("qkv", "proj"), False),
    ("timm.models.beit", "Attention", ("qkv",), True),
    ("timm.models.eva", "EvaAttention", ("qkv",), True),
    ("timm.models.swin_transformer_v2", "WindowAttention", ("qkv",), True),
)


def output_path(block: nn.Module, position: str) -> str:
    """Path, inside `block`, of the last module of its attention or MLP branch.

    Args:
        block (`nn.Module`): A transformer block.
        position (`str`): `"attention"` or `"mlp"`.

    Raises:
        ValueError: If no known name is there.
    """
    # what `modules_to_save` wraps is left out of the targets later, or refused
    modules = {name.replace(".original_module", ""): name for name, _ in block.named_modules()}
    for path in OUTPUT_NAMES[position]:
        if path in modules:
            return modules[path]
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


def refuse_uncalled(model: nn.Module, names: Collection[str], tuner: str) -> None:
    """Refuse modules whose weights are read by the module around them, which never calls them.

    Args:
        model (`nn.Module`): The model to adapt.
        names (`Collection[str]`): Names of the modules to wrap.
        tuner (`str`): Name of the tuner, for the message.

    Raises:
        ValueError: If there is such a module; names the first, and what to do.
    """
    for name in sorted(names):
        path, _, child = name.rpartition(".")
        parent = model.get_submodule(path)
        if any(child in row[2] and _takes_weights(parent, row) for row in UNCALLED):
            raise ValueError(
                f"{type(parent).__name__} takes the weight of its '{child}' ('{name}') without calling it, so what "
                f"{tuner} puts in its place would never act. Choose positions=('mlp',), where the method has "
                "positions, or another method."
            )


def _takes_weights(module: nn.Module, row: tuple[str, str, tuple[str, ...], bool]) -> bool:
    package, name, _, with_biases = row
    known = any(c.__name__ == name and f"{c.__module__}.".startswith(f"{package}.") for c in type(module).__mro__)
    own_biases = getattr(module, "q_bias", None) is not None and not getattr(module, "qkv_bias_separate", False)
    return known and (own_biases or not with_biases)
