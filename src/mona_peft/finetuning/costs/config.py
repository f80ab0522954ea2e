"""What a measurement of costs can vary, and which of it goes together."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mona_peft.finetuning.models.names import CLASSIFICATION, TASKS
from mona_peft.finetuning.settings import Settings, option

DTYPES = ("float32", "bfloat16", "float16")
AUTOCAST = ("bfloat16", "float16")
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "process": time.process_time}
FLOOR = "floor"
DEFAULT_SUBJECTS = [FLOOR, "fixed", "full", "lora", "mona-plain", "mona"]
#: All that can be measured; `subjects.SUBJECTS` says how each is made.
SUBJECT_NAMES = (*DEFAULT_SUBJECTS, "mona-triton")


@dataclass
class CostsConfig(Settings):
    """What to measure."""

    task: str = option(CLASSIFICATION, f"What is trained: one of {', '.join(TASKS)}.", choices=TASKS)
    model: str = option("swin-t", "A size of Swin or ViT, such as swin-t or vit-b, or a path to a config.json.")
    architecture: str = option("", "Neck and heads of a dense task, such as upernet; the task's usual ones if unset.")
    architecture_options: dict[str, Any] = option({}, 'Settings of the architecture, as JSON: {"fpn_channels": 256}.')
    image_size: int = option(224, "Height and width of the images, in pixels.", least=1)
    batch_size: int = option(8, "Images a step, of each process.", least=1)
    dtype: str = option("float32", "Type of the backbone: float32, bfloat16 or float16.", choices=DTYPES)
    autocast: str = option(
        "", "Mixed precision: bfloat16 or float16 (with loss scaling); none if unset.", choices=("", *AUTOCAST)
    )
    gradient_checkpointing: bool = option(False, "Whether to recompute the backbone in the backward pass.")
    channels_last: bool = option(False, "Whether images and weights of convolutions are laid out channels last.")
    compile: bool = option(False, "Whether to compile the models with torch.compile.")
    processes: int = option(1, "Processes that train together (DDP), each with a batch of its own.", least=1)
    threads: int = option(0, "Threads of each process on the CPU; 0 shares PyTorch's own number among them.", least=0)
    device: str = option("cpu", "Device, such as cpu or cuda.")
    methods: list[str] = option(
        list(DEFAULT_SUBJECTS),
        "Methods to compare. The floor always takes part: the gradient goes back to the patch embedding's bias, which "
        "trains (and the heads of a dense task, as with every method). With fixed the head alone trains.",
    )
    repeats: int = option(15, "Rounds that are timed.", least=1)
    warmup: int = option(3, "Rounds before them.", least=0)
    inference: bool = option(True, "Whether to time inference as well.")
    launches: bool = option(False, "Whether to count the operations of a step: on a GPU the kernels launched.")
    seed: int = option(0, "Seed of the weights and images.", least=0, below=2**32)
    clock: str = option(
        "wall",
        "Clock: wall, or process for CPU time, on a machine that does other work as well.",
        choices=tuple(CLOCKS),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = set(self.methods) - set(SUBJECT_NAMES)
        if unknown:
            raise ValueError(f"methods={self.methods!r} has {sorted(unknown)}; choose among {list(SUBJECT_NAMES)}.")
        self.methods = [FLOOR, *(name for name in self.methods if name != FLOOR)]
        self._check_combinations()

    @property
    def dense(self) -> bool:
        """Whether the task has neck and heads."""
        return self.task != CLASSIFICATION

    def _check_combinations(self) -> None:
        if not self.dense and (self.architecture or self.architecture_options):
            raise ValueError(
                f"architecture={self.architecture!r} and architecture_options={self.architecture_options!r} are for "
                f"dense tasks; name one: --task {TASKS[1]}."
            )
        if self.dtype != "float32" and (self.dense or self.autocast):
            reason = "autocast keeps weights in float32" if self.autocast else "heads of dense tasks need float32"
            raise ValueError(f"dtype={self.dtype!r}, but {reason}; use --autocast bfloat16 alone.")
        if self.processes > 1 and self.clock == "process":
            raise ValueError("clock='process' does not see a process wait for the others; use --clock wall.")

    def describe(self) -> str:
        """One line for titles."""
        task = [self.task.replace("_", " ")] if self.dense else []
        words = [self.model, *task, *filter(None, [self.architecture]), f"{self.image_size} px"]
        words += [f"batch {self.batch_size}", self.dtype, self.device]
        words += [f"autocast {self.autocast}"] if self.autocast else []
        words += [f"{self.processes} processes"] if self.processes > 1 else []
        modes = ("compile", "gradient_checkpointing", "channels_last")
        return ", ".join([*words, *(mode.replace("_", " ") for mode in modes if getattr(self, mode))])


@dataclass
class OutputConfig(Settings):
    """Where the results go, and what is varied."""

    output_dir: str = option("outputs/benchmark", "Where results and pictures are written.")
    profile: bool = option(False, "Whether to tell where the time of a step goes, by operation, instead of timing it.")
    scale_batch_size: list[int] = option([], "Batch sizes to plot the costs against, instead of one table.", least=1)
    scale_image_size: list[int] = option([], "Image sizes to plot the costs against.", least=1)
    scale_model: list[str] = option([], "Models to plot the costs against.")

    def __post_init__(self) -> None:
        if self.profile and self.varied:
            raise ValueError(
                f"--profile takes one setting, not several {', '.join(self.varied)}: leave --scale_* out."
            )

    @property
    def varied(self) -> list[str]:
        """Names of the settings with several values."""
        return [name for name in ("batch_size", "image_size", "model") if getattr(self, f"scale_{name}")]
