"""Which blocks of a model a configuration means, and the warning for a head that it leaves out."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Iterable

from peft import NoMatchingPeftModuleError
from torch import nn

from mona_peft.blocks.head import find_head
from mona_peft.blocks.known import find_blocks, known_block_classes, refuse_other_row
from mona_peft.blocks.modules import find_kept, has_submodule, paths_to, stream_width
from mona_peft.blocks.spec import BlockSpec
from mona_peft.compat import AuxiliaryTrainingWrapper, ExcludedModule, check_target_module_exists

from .config import BlockTunerConfig
from .saved import find_saved


def match_blocks(model: nn.Module, config: BlockTunerConfig) -> tuple[dict[str, BlockSpec], set[str]]:
    """Find the blocks a configuration means.

    Args:
        model (`nn.Module`): The model to adapt.
        config (`BlockTunerConfig`): Names the blocks.

    Returns:
        The blocks by name with their row of the table, from the input to the output, and the names left out, with
        those inside them.

    Raises:
        NoMatchingPeftModuleError: If there is no known block, or none that the names mean.
        ValueError: If a name matches something else, an index or a size is out of range, or a block is inside what
            another adapter saves or adapted by another row.
    """
    by_name = copy.copy(config)
    by_name.layers_to_transform = by_name.layers_pattern = by_name.modules_to_save = None
    closed = [f"{name}." for name in find_saved(model, config.modules_to_save)]
    blocks = find_blocks(model, config.block_specs)
    if config.target_modules is None:
        by_name.target_modules = list(blocks)
    if not blocks:
        raise NoMatchingPeftModuleError(
            f"{type(model).__name__} has no block that can be adapted. The known blocks are {known_block_classes()}."
        )
    matched: dict[str, BlockSpec] = {}
    excluded: set[str] = set()
    for name, module in model.named_modules():
        result = check_target_module_exists(by_name, name) if name else False
        if isinstance(result, ExcludedModule):
            closed.append(f"{name}.")
        if f"{name}.".startswith(tuple(closed)):
            excluded.add(name)
        elif result and name not in blocks:
            refuse_kept(model, [name])
            raise ValueError(
                f"target_modules={config.target_modules!r} matches '{name}' ({type(module).__name__}), which is not a "
                f"block that can be adapted. Name blocks, of the classes {known_block_classes()}, for example "
                f"'{next(iter(blocks))}'."
            )
        elif result:
            matched[name] = blocks[name]
    if not matched:
        raise NoMatchingPeftModuleError(
            f"target_modules={config.target_modules!r} (exclude_modules={config.exclude_modules!r}, "
            f"modules_to_save={config.modules_to_save!r}) leaves no block to adapt. The model's blocks are "
            f"{list(blocks)}."
        )
    chosen = _choose_layers(list(blocks), matched, config)
    refuse_kept(model, chosen)
    for name, spec in chosen.items():
        block = model.get_submodule(name)
        refuse_other_row(name, block, config.block_specs)
        config.check_width(name, stream_width(block, spec))
    return chosen, excluded


def refuse_kept(model: nn.Module, names: Iterable[str]) -> None:
    """Refuse modules of which PEFT keeps copies for other adapters: what is put into one does not act in the others.

    Args:
        model (`nn.Module`): The model to adapt.
        names (`Iterable[str]`): Names of the modules to adapt.

    Raises:
        ValueError: If there is such a module; names the first, and what to do.
    """
    for name in names:
        kept = find_kept(model, name)
        if kept is not None:
            others = sorted(model.get_submodule(kept)._adapters)  # type: ignore[arg-type]
            raise ValueError(
                f"'{kept}' cannot be adapted: PEFT keeps a copy of it for {others}, by their modules_to_save. Name it "
                "in this adapter's modules_to_save as well, leave it out with `exclude_modules`, or add the adapter "
                "to a model of its own."
            )


def _choose_layers(names: list[str], matched: dict[str, BlockSpec], config: BlockTunerConfig) -> dict[str, BlockSpec]:
    """Keep of the `matched` blocks those that `layers_to_transform` means.

    It counts all blocks of the model, `names`, or those in containers that `layers_pattern` names.
    """
    if config.layers_to_transform is None:
        return matched
    if config.layers_pattern:
        patterns = [config.layers_pattern] if isinstance(config.layers_pattern, str) else list(config.layers_pattern)
        containers = {name: name.rpartition(".")[0].rpartition(".")[2] for name in names}
        unknown = sorted(set(patterns) - set(containers.values()))
        if unknown:
            raise NoMatchingPeftModuleError(
                f"layers_pattern={config.layers_pattern!r} names no container of blocks with {unknown}; the blocks "
                f"are {names}."
            )
        names = [name for name in names if containers[name] in patterns]
    indices = config.layers_to_transform
    indices = [indices] if isinstance(indices, int) else list(indices)
    beyond = [index for index in indices if not -len(names) <= index < len(names)]
    if beyond or not indices:
        raise ValueError(
            f"layers_to_transform={config.layers_to_transform!r} must hold indices between {-len(names)} and "
            f"{len(names) - 1}: the backbone has {len(names)} blocks."
        )
    left_out = {index: names[index] for index in indices if names[index] not in matched}
    if left_out:
        raise ValueError(
            f"layers_to_transform={config.layers_to_transform!r} counts all {len(names)} blocks and means {left_out}, "
            f"left out by target_modules={config.target_modules!r}, exclude_modules={config.exclude_modules!r} or "
            f"modules_to_save={config.modules_to_save!r}. Take out these indices, or adapt these blocks."
        )
    chosen = {names[index] for index in indices}
    return {name: spec for name, spec in matched.items() if name in chosen}


def warn_of_frozen_head(model: nn.Module, config: BlockTunerConfig) -> None:
    """Warn when a head will be neither trained nor saved: the commonest mistake with PEFT."""
    saved = find_saved(model, config.modules_to_save)
    frozen = [
        path
        for path in find_head(model) or ()
        if not any(f"{path}.".startswith(f"{outer}.") for outer in saved)
        and not (has_submodule(model, path) and isinstance(model.get_submodule(path), AuxiliaryTrainingWrapper))
    ]
    if frozen and not config.inference_mode:
        warnings.warn(
            f"The head of {type(model).__name__} ({', '.join(frozen)}) will be frozen and will not be saved with the "
            f"adapter. If it is new, or was trained on other classes, pass modules_to_save={frozen}.",
            stacklevel=2,
        )


def warn_of_idle_exclusion(
    model: nn.Module, config: BlockTunerConfig, excluded: Collection[str], targets: Iterable[str] = ()
) -> None:
    """Warn when `exclude_modules` leaves out nothing that would be adapted.

    Args:
        model (`nn.Module`): The model to adapt.
        config (`BlockTunerConfig`): The configuration.
        excluded (`Collection[str]`): Names of all that is left out; where nothing is, PEFT warns itself.
        targets (`Iterable[str]`): Names of what would be adapted inside the blocks.
    """
    if not config.exclude_modules or not excluded:
        return
    by_name = copy.copy(config)
    by_name.target_modules, by_name.modules_to_save = [], None
    blocks = find_blocks(model, config.block_specs)
    adaptable = {path for name in (*blocks, *targets) for path in paths_to(name)}
    if not any(isinstance(check_target_module_exists(by_name, path), ExcludedModule) for path in adaptable):
        warnings.warn(
            f"exclude_modules={config.exclude_modules!r} leaves out nothing that would be adapted. Name blocks, such "
            f"as '{next(iter(blocks))}', or take it out.",
            stacklevel=2,
        )
