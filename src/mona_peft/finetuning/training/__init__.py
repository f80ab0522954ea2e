"""The training loop that every task shares."""

from importlib import import_module
from typing import TYPE_CHECKING

from .config import TrainingConfig

if TYPE_CHECKING:
    from .loop import Trainer
    from .task import Meter, Task

__all__ = ["Meter", "Task", "Trainer", "TrainingConfig"]

# These need torch; they are imported when first asked for.
_LAZY = {"Trainer": ".loop", "Meter": ".task", "Task": ".task"}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
