"""The training loop that every task shares."""

from mona_peft.training.config import TrainingConfig
from mona_peft.training.loop import Trainer
from mona_peft.training.task import Meter, Task

__all__ = ["Meter", "Task", "Trainer", "TrainingConfig"]
