"""The modules that are trained and saved along with the adapters, `modules_to_save`.

PEFT wraps every module whose name ends in one of the names, those inside adapters too. Here only modules of the base
model match, and of modules inside each other the outermost.
"""

from __future__ import annotations

from collections.abc import Sequence

from accelerate.utils import has_offloaded_params
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from mona_peft.compat import AuxiliaryTrainingWrapper, ModulesToSaveWrapper

from .config import BlockTunerConfig

#: Modules that are never called, so that a copy of them would never be used.
CONTAINERS = (nn.ModuleDict, nn.ModuleList, nn.ParameterDict, nn.ParameterList)


def find_saved(model: nn.Module, names: Sequence[str] | None) -> list[str]:
    """Names of the modules of the base model whose names end in one of `names`.

    Args:
        model (`nn.Module`): The model, adapted or not.
        names (`Sequence[str]`, *optional*): `modules_to_save` of a configuration.
    """
    found: list[str] = []
    closed: list[str] = []  # inside these nothing matches, but for what a tuner layer wraps
    for name, module in model.named_modules(remove_duplicate=False):
        if any(name.startswith(f"{outer}.") and not name.startswith(f"{outer}.base_layer.") for outer in closed):
            continue
        if name and name.endswith(tuple(names or ())):
            found.append(name)
            closed.append(name)
        elif isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            closed.append(name)
    return found


def check_saved(model: nn.Module, names: Sequence[str] | None) -> None:
    """Refuse `modules_to_save` that cannot be copied, before anything is changed.

    Raises:
        TypeError: If a name means a container, which is never called.
        ValueError: If a module holds adapters, which the copy would hold as well, or its weights are kept elsewhere.
    """
    for name in find_saved(model, names):
        module = model.get_submodule(name)
        if isinstance(module, CONTAINERS):
            raise TypeError(
                f"modules_to_save={names!r} matches '{name}', a {type(module).__name__}, which is never called. Name "
                "the modules in it."
            )
        if not isinstance(module, ModulesToSaveWrapper) and any(
            isinstance(m, BaseTunerLayer) for m in module.modules()
        ):
            raise ValueError(
                f"modules_to_save={names!r} matches '{name}' ({type(module).__name__}), which holds adapters, so its "
                "copy would hold them too. Name modules without adapters, or leave them out of the adapters' targets "
                "with `exclude_modules`."
            )
        if any(has_offloaded_params(part) for part in module.modules()):
            raise ValueError(
                f"modules_to_save={names!r} matches '{name}' ({type(module).__name__}), whose weights accelerate "
                "keeps elsewhere, so a copy of them could not be trained or loaded. Add the adapter first, and then "
                "offload the model."
            )


def wrap_saved(model: nn.Module, config: BlockTunerConfig, adapter_name: str, activate: bool) -> None:
    """Give an adapter its own copies of the modules that its configuration names.

    Args:
        model (`nn.Module`): The model.
        config (`BlockTunerConfig`): Names the modules.
        adapter_name (`str`): The adapter.
        activate (`bool`): Whether it is active.
    """
    names = find_saved(model, config.modules_to_save)
    if not names:
        return
    for name in names:
        path, _, child = name.rpartition(".")
        parent = model.get_submodule(path)
        wrapper = getattr(parent, child)
        if isinstance(wrapper, ModulesToSaveWrapper):
            trained = [(parameter, parameter.requires_grad) for parameter in wrapper.modules_to_save.parameters()]
            wrapper.update(adapter_name)
            for parameter, was_trained in trained:  # the copies of other adapters train or not as before
                parameter.requires_grad_(was_trained)
            continue
        wrapper = ModulesToSaveWrapper(wrapper, adapter_name)
        wrapper.set_adapter(adapter_name if activate else [], inference_mode=config.inference_mode)
        setattr(parent, child, wrapper)
