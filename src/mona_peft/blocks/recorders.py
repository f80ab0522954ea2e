"""The recorders: of a patch embedding's grid, of an argument of a module, of the order of the patches."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor, nn

from .modules import remove_hooks
from .recorder import Recorder


class GridRecorder(Recorder):
    """Records the grid that a patch embedding's convolution gives."""

    def watch(self, module: nn.Module) -> None:
        """See `Recorder`."""
        module.register_forward_hook(self.record)

    def record(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        """Forward hook of the convolution."""
        self.keep((output.shape[-2], output.shape[-1]))


class ArgumentRecorder(Recorder):
    """Records an argument of a module's forward.

    Args:
        argument (`str`): The argument's name.
    """

    def __init__(self, argument: str) -> None:
        super().__init__()
        self.argument = argument

    def tells_as(self, other: Recorder) -> bool:
        """See `Recorder`."""
        return isinstance(other, ArgumentRecorder) and other.argument == self.argument

    def watch(self, module: nn.Module) -> None:
        """See `Recorder`."""
        self.place = argument_places(module.forward, [self.argument])[0]
        module.register_forward_pre_hook(self.record, with_kwargs=True)
        module.register_forward_hook(self.mark)

    def record(self, module: nn.Module, args: tuple, kwargs: dict[str, object]) -> None:
        """Forward pre-hook of the module."""
        self.keep(args[self.place] if self.place < len(args) else kwargs.get(self.argument))

    def __reduce__(self) -> tuple:
        return type(self), (self.argument,), {"place": self.place}


class OrderRecorder(Recorder):
    """Records the last item of a module's output: where the patches of the grid went."""

    def watch(self, module: nn.Module) -> None:
        """See `Recorder`."""
        module.register_forward_hook(self.record)

    def record(self, module: nn.Module, args: tuple, output: Sequence[Tensor]) -> None:
        """Forward hook of the module."""
        self.keep(output[-1])
        self.mark(module, args, output)


def recorders_of(module: nn.Module) -> Iterator[Recorder]:
    """The recorders to which `module` tells."""
    for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
        if _recorder_behind(hook) is not None and hook.__name__ == "record":
            yield hook.__self__  # type: ignore[attr-defined]


def remove_recorders(model: nn.Module, used: Sequence[Recorder]) -> None:
    """Remove the hooks of all recorders but those `used` from the modules of `model`."""
    for module in model.modules():
        remove_hooks(module, lambda hook: _recorder_behind(hook) not in (None, *used))


def _recorder_behind(hook: object) -> Recorder | None:
    owner = getattr(hook, "__self__", None)
    return owner if isinstance(owner, Recorder) else None


def argument_places(function: Callable, names: Sequence[str]) -> list[int]:
    """Positions of the arguments `names` in calls of the bound method `function`.

    Raises:
        ValueError: If it lacks one.
    """
    parameters = list(inspect.signature(function).parameters)
    missing = [name for name in names if name not in parameters]
    if missing:
        raise ValueError(f"has no forward argument {missing} to take the token grid from; it has {parameters}.")
    return [parameters.index(name) for name in names]
