"""Weights that come into an adapter: only its own are read, and all of them are checked before any is copied."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

PREFIX = "base_model.model."


def own_entries(model: nn.Module, places: Sequence[str], adapter_name: str) -> dict[str, Tensor]:
    """The entries of the model's state dict that belong to one adapter and to its `modules_to_save`.

    Args:
        model (`nn.Module`): The adapted model.
        places (`Sequence[str]`): The names of the method's `ModuleDict`s.
        adapter_name (`str`): The adapter.
    """
    parts = [f".{place}.{adapter_name}." for place in (*places, "modules_to_save")]
    return {key: tensor for key, tensor in model.state_dict().items() if any(part in key for part in parts)}


def check_keys(own: Mapping[str, Tensor], state_dict: Mapping[str, Tensor], adapter_name: str) -> None:
    """Refuse weights of anything but the adapter: they would change the base model, and every other adapter with it.

    Raises:
        ValueError: With the first keys that are not the adapter's.
    """
    short = {key.removeprefix(PREFIX) for key in own}
    foreign = [key for key in state_dict if key.removeprefix(PREFIX) not in short]
    if foreign:
        raise ValueError(
            f"The weights for adapter '{adapter_name}' hold what is part neither of the adapter nor of its "
            "`modules_to_save`; nothing was loaded. Load them into the base model they were trained on, with their "
            f"own configuration, or take these keys out of the file.\n  {_listed(foreign)}"
        )


def check_shapes(own: Mapping[str, Tensor], state_dict: Mapping[str, Tensor], adapter_name: str) -> None:
    """Refuse weights of other shapes than the adapter's.

    Raises:
        ValueError: If shapes differ; names the first of them.
    """
    misfits = [
        f"{key}: the file has {tuple(tensor.shape)}, the model {tuple(own[key].shape)}"
        for key, tensor in state_dict.items()
        if key in own and own[key].shape != tensor.shape
    ]
    if misfits:
        raise ValueError(
            f"The weights for adapter '{adapter_name}' do not fit the model; nothing was loaded. Load them into the "
            "base model they were trained on, with their own configuration; or, where only a head differs, with "
            f"ignore_mismatched_sizes=True.\n  {_listed(misfits)}"
        )


def _listed(items: list[str]) -> str:
    return "\n  ".join(items[:5] + ([f"and {len(items) - 5} more"] if len(items) > 5 else []))


def before_next_load(model: nn.Module, check: Callable[[Mapping[str, Tensor]], None]) -> None:
    """Call `check` with the state dict that `model` is to load next, before anything of it is copied.

    PEFT leaves out what does not fit, if it is asked to, only after the tuner has seen the weights.
    """

    def run_once(module: nn.Module, state_dict: Mapping[str, Tensor], *rest: object) -> None:
        # PyTorch goes through the hooks just now, so they are replaced and not changed.
        hooks = module._load_state_dict_pre_hooks
        module._load_state_dict_pre_hooks = type(hooks)((k, hook) for k, hook in hooks.items() if k != handle.id)
        check(state_dict)

    handle = model.register_load_state_dict_pre_hook(run_once)
