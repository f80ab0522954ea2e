"""The training loop that every task shares."""

from .config import TrainingConfig
from .loop import Trainer
from .task import Meter, Task

__all__ = ["Meter", "Task", "Trainer", "TrainingConfig"]
