"""A trial run of a model: what its modules were given and gave, by which unknown blocks are understood."""

from __future__ import annotations

import copy
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: Sides that are tried where a model does not say how large its images are.
USUAL_SIDES = (64, 224, 96, 256, 32)


@dataclass(frozen=True)
class CallRecord:
    """One call of a module.

    Args:
        args (`tuple`): What it was given.
        kwargs (`dict`): What it was given by name.
        output (`object`): What it gave.
    """

    args: tuple
    kwargs: dict[str, object]
    output: object

    @property
    def input(self) -> Tensor | None:
        """Its first tensor."""
        return first_tensor((*self.args, *self.kwargs.values()))

    @property
    def result(self) -> Tensor | None:
        """The tensor that it gave, or the first of several."""
        return first_tensor(self.output)


def first_tensor(value: object) -> Tensor | None:
    """A tensor, or the first one among some values."""
    if isinstance(value, Tensor):
        return value
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    return next((item for item in items if isinstance(item, Tensor)), None)


def random_copy(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy in float64 whose weights are moved at random, so that none is zero by its first value.

    Args:
        model (`nn.Module`): Stays as it is.
        seed (`int`): Of the weights.
    """
    twin = copy.deepcopy(model).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.requires_grad_(False)
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return twin


def trial_images(model: nn.Module, seed: int = 1) -> list[dict[str, Tensor]]:
    """Random images that a model may take, as keyword arguments, the likeliest first.

    Args:
        model (`nn.Module`): In float64.
        seed (`int`): Of the images.
    """
    convolution = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    channels = convolution.in_channels if convolution is not None else 3
    generator = torch.Generator().manual_seed(seed)
    name = next(iter(_tensor_arguments(model)), "")
    return [
        {name: torch.randn(1, channels, *side, generator=generator, dtype=torch.float64)} for side in _sides(model)
    ]


def _tensor_arguments(model: nn.Module) -> Iterator[str]:
    """The names that images may go by among the arguments of a model's forward."""
    names = list(inspect.signature(model.forward).parameters)
    yield from (name for name in ("pixel_values", *names[:1]) if name in names)


def _sides(model: nn.Module) -> list[tuple[int, int]]:
    """Heights and widths to try: what the model says, then the usual ones."""
    told: list[int | Sequence[int] | None] = [getattr(model, "default_cfg", {}).get("input_size", ())[-2:]]
    for holder in (
        getattr(model, "config", None),
        getattr(getattr(model, "config", None), "vision_config", None),
        model,
    ):
        told.append(getattr(holder, "image_size", None))
    sides = [(side, side) if isinstance(side, int) else tuple(side) for side in told if side]
    squares = list(dict.fromkeys([*sides, *((side, side) for side in USUAL_SIDES)]))
    # An oblong image tells height from width, where the model takes one.
    return [pair for height, width in squares for pair in ((height, 2 * width), (height, width))]


def call(model: nn.Module, inputs: Mapping[str, Tensor]) -> object:
    """Call a model with images by name; by position, where its forward has no such name."""
    names = inspect.signature(model.forward).parameters
    if all(name in names and names[name].kind is not inspect.Parameter.VAR_POSITIONAL for name in inputs):
        return model(**inputs)
    return model(*inputs.values())


def run_trial(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, list[CallRecord]]:
    """Run a model and record every call of its modules, by name, in the order in which they began.

    Args:
        model (`nn.Module`): In evaluation mode.
        inputs (`Mapping[str, Tensor]`): Its keyword arguments.
    """
    records: dict[str, list[CallRecord]] = defaultdict(list)
    names = {module: name for name, module in model.named_modules()}
    started: list[tuple[str, tuple, dict[str, object]]] = []

    def begin(module: nn.Module, args: tuple, kwargs: dict[str, object]) -> None:
        records[names[module]]  # the order of beginning
        started.append((names[module], args, kwargs))

    def end(module: nn.Module, args: tuple, kwargs: dict[str, object], output: object) -> None:
        name, given, named = started.pop()
        records[name].append(CallRecord(given, named, output))

    with hooked(names, begin, end), torch.no_grad():
        call(model, inputs)
    return {name: found for name, found in records.items() if found}


@contextmanager
def hooked(modules: Iterable[nn.Module], begin: Callable | None = None, end: Callable | None = None) -> Iterator[None]:
    """Let hooks watch the calls of modules for a while.

    Args:
        modules (`Iterable[nn.Module]`): To watch.
        begin (`Callable`, *optional*): A pre-hook, with keyword arguments.
        end (`Callable`, *optional*): A hook, with keyword arguments.
    """
    handles = []
    for module in modules:
        if begin is not None:
            handles.append(module.register_forward_pre_hook(begin, with_kwargs=True))
        if end is not None:
            handles.append(module.register_forward_hook(end, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def repeated_classes(model: nn.Module, called: Sequence[str]) -> dict[type, list[str]]:
    """Classes of which several modules stand in lists, and were called: the candidates for blocks, outermost first.

    Args:
        model (`nn.Module`): The model.
        called (`Sequence[str]`): Names of the modules that a run called.
    """
    found: dict[type, list[str]] = defaultdict(list)
    ran = set(called)
    for name, module in model.named_modules():
        parent = model.get_submodule(name.rpartition(".")[0]) if name else None
        listed = isinstance(parent, nn.ModuleList | nn.Sequential | nn.ModuleDict)
        if listed and name in ran and next(module.children(), None) is not None and type(module) is not nn.Sequential:
            found[type(module)].append(name)
    return {cls: names for cls, names in found.items() if len(names) > 1}
