"""Settings of studies and demos."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mona_peft.finetuning.arguments import Program
from mona_peft.finetuning.command_line import parse_arguments
from mona_peft.finetuning.models.names import TASKS
from mona_peft.finetuning.settings import Settings, option
from mona_peft.finetuning.tasks.config import TASK_SETTINGS
from mona_peft.finetuning.training.config import TrainingConfig

from .ablations import GROUPS, PAPER_GROUPS
from .selection import CHOICES
from .variants import PAPER_METHODS

STUDY_SIZES = ("full", "tiny")
#: Data sets of the study on a real backbone; `testbeds.real` has a row for each.
REAL_SETS = ("clipart", "emoji", "flowers102", "oxford_pets", "voc2007")
#: The one for dense tasks; see `testbeds.cutouts`.
CUTOUTS = "cutouts"


@dataclass
class StudyConfig(Settings):
    """A study: what of it to run, and where its results go."""

    task: str = option("classification", f"What to compare on: {', '.join(TASKS)}.")
    study_dir: str = option("outputs/study", "Folder of the study; a study in it goes on where it was.")
    results_dir: str | None = option(None, "Where table, figures and report are written; in study_dir if unset.")
    testbed: str | None = option(
        None,
        "A data set of the study on a real backbone, with its own recipe; see --shots.",
        choices=(*REAL_SETS, CUTOUTS),
    )
    material: str = option("data/study", "Where scripts/prepare_study.py wrote pictures and backbone.")
    study_size: str = option("full", "Without a dataset: the embedded study, full (minutes) or tiny.")
    learning_rates: list[float] = option(
        [], "The grid of learning rates; rates are chosen on the validation split.", above=0
    )
    seeds: int | None = option(None, "Runs of each variant at its chosen rate.", least=1)
    search_seeds: int | None = option(None, "Runs at each rate of the grid; all seeds if unset.", least=1)
    select_on: str = option(
        "validation",
        "What rates and best weights are chosen on: validation (part of the training images where there is no such "
        "split), or test, as the paper did.",
        choices=CHOICES,
    )
    held_out: float = option(
        0.1, "Share of the training images to choose on, where the data has no validation split.", above=0, below=1
    )
    metric: str | None = option(None, "Metric to show, such as box_ap or validation.")
    max_runs: int | None = option(None, "Stop after this many runs; the same command goes on from there.", least=1)
    report_only: bool = option(False, "Run nothing, write the results of the runs there are.")

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        super().__post_init__()
        if self.study_size not in STUDY_SIZES:
            raise ValueError(f"Unknown study_size {self.study_size!r}; choose one of {', '.join(STUDY_SIZES)}.")
        if self.task not in TASKS:
            raise ValueError(f"Unknown task {self.task!r}; choose one of {', '.join(TASKS)}.")
        if self.testbed in REAL_SETS and self.task != "classification":
            raise ValueError(f"The testbed {self.testbed!r} is for classification, not for {self.task}.")


@dataclass
class CompareConfig(Settings):
    """The comparison of methods."""

    methods: list[str] = option(list(PAPER_METHODS), "Names of methods in mona_peft.finetuning.methods.")
    variant_options: dict[str, Any] = option({}, 'Settings by method, as JSON: {"mona": {"bottleneck_dim": 32}}.')
    parameters: bool = option(False, "Only print what every method trains in Swin-T, B, L and ViT-B.")
    readme: str | None = option(
        None, "Put the table between this file's markers, results:begin and results:end (dense: results-<task>)."
    )


@dataclass
class AblateConfig(Settings):
    """The ablations of Mona."""

    groups: list[str] = option(list(PAPER_GROUPS), f"Some of {', '.join(GROUPS)}.")
    bottleneck_dim: int | None = option(None, "The default's bottleneck; 64, or 16 on digits.", least=1)
    bottlenecks: list[int] = option([], "Other sizes; 16 32 128, or 4 8 32 on digits.", least=1)
    full_rates: list[float] = option(
        [], "Grid of full fine-tuning, where backbones are compared; 0.003 on the digits.", above=0
    )
    backbones: list[str] = option(
        [], "Models, recipes whose model is taken, or sizes of the digits' Swin, to train with Mona and in full."
    )


@dataclass
class AverageConfig(Settings):
    """The average over data sets."""

    folders: list[str] = option([], "Folders of results that mona-peft compare wrote, a data set each.")
    results_dir: str = option("outputs/average", "Where the table is written.")


@dataclass
class DemoConfig(Settings):
    """The demo, run when no dataset is given."""

    demo_size: str = option("full", "How much the demo does: full (minutes) or tiny (seconds).")
    demo_dir: str = option("outputs/demo", "Where the demo writes; one in it goes on where it was.")


@dataclass
class DenseDemoConfig(Settings):
    """The demo, run when no dataset is given."""

    demo_size: str = option("full", "How much the demo does: full (half an hour) or tiny (seconds).")
    demo_dir: str = option("outputs/demo-dense", "Where the demo writes; its models share their pretrained backbones.")


def parse_study(kind: type, arguments: Sequence[str] | None = None, program: Program | None = None) -> tuple[Any, ...]:
    """Read a command line: settings of the study, of `kind`, of the task's data, of the task and of the loop.

    Args:
        kind (`type`): `CompareConfig` or `AblateConfig`.
        arguments (`Sequence[str]`, *optional*): `sys.argv[1:]` if left out.
        program (`Program`, *optional*): Of the help text.

    Raises:
        ValueError: If the task is unknown.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    task_flag = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    task_flag.add_argument("--task", default="classification")
    task = task_flag.parse_known_args(words)[0].task
    types = TASK_SETTINGS[StudyConfig(task=task).task]
    return parse_arguments([StudyConfig, kind, *types, TrainingConfig], words, program, every_method=True)
