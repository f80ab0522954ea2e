"""`mona-peft compare` and `mona-peft ablate`: studies of many runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from mona_peft.finetuning.command_line import parse_arguments
from mona_peft.finetuning.study.config import AblateConfig, AverageConfig, CompareConfig, parse_study

from .command import Command, Job, program
from .layout import is_common_in_studies

COMPARE = "Compare fine-tuning methods; without a data set on scanned digits, or scenes of them, offline."
ABLATE = "Compare settings of Mona; without a data set on scanned digits, offline."
AVERAGE = "Put the comparisons on several data sets into one table, with their average."


def read_comparison(words: Sequence[str]) -> Job:
    """Read the command line of a comparison."""
    examples = ("--study_size tiny", "swin-large-flowers102 --study_dir studies/flowers --seeds 3", "--parameters")
    return partial(
        compare,
        *parse_study(CompareConfig, words, program("compare", COMPARE, examples, is_common=is_common_in_studies)),
    )


def read_ablation(words: Sequence[str]) -> Job:
    """Read the command line of an ablation."""
    examples = ("--study_size tiny --groups design positions",)
    return partial(
        ablate, *parse_study(AblateConfig, words, program("ablate", ABLATE, examples, is_common=is_common_in_studies))
    )


def read_average(words: Sequence[str]) -> Job:
    """Read the command line of an average."""
    examples = ("--folders studies/flowers/results studies/pets/results studies/voc/results",)
    return partial(
        average, *parse_arguments((AverageConfig,), words, program("average", AVERAGE, examples, positionals=""))
    )


def compare(*configs: Any) -> object:
    """Compare methods."""
    from mona_peft.finetuning.study.command import run_comparison

    return run_comparison(*configs)


def ablate(*configs: Any) -> object:
    """Compare settings of Mona."""
    from mona_peft.finetuning.study.command import run_ablation

    return run_ablation(*configs)


def average(config: AverageConfig) -> object:
    """Average comparisons over data sets."""
    from pathlib import Path

    from mona_peft.finetuning.study.average import write_average

    return write_average(config.folders, Path(config.results_dir))


COMPARE_COMMAND = Command(COMPARE, read_comparison)
ABLATE_COMMAND = Command(ABLATE, read_ablation)
AVERAGE_COMMAND = Command(AVERAGE, read_average)
