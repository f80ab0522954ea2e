"""What `scripts/compare.py` and `scripts/ablate.py` do: run a study as far as asked, and write its results."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from mona_peft.finetuning.costs.counts import count_all, format_counts
from mona_peft.finetuning.data.sources.classification import DataConfig
from mona_peft.finetuning.environment import command_line, package_versions
from mona_peft.finetuning.settings import Settings, flags_of, option, parse_arguments, refuse_unused
from mona_peft.finetuning.tasks.classification import ClassificationConfig
from mona_peft.finetuning.tasks.dense_kinds import DENSE_KINDS
from mona_peft.finetuning.training.config import TrainingConfig

from .ablations import DEFAULT_LABEL, GROUPS, ablation_variants
from .plan import Plan
from .report import RECORDS_FILE, Results, replace_block, write_report
from .runs import Study, settings_of
from .table import REFERENCE, make_rows, sort_rows
from .testbeds.digits import DIGITS_OPTIONS, STUDY_SIZES, SWIN_WIDTHS, DigitsTestbed
from .testbeds.real import DATA, RealTestbed
from .testbeds.recipes import ClassificationTestbed, DenseTestbed
from .testbeds.scenes import SIZES as SCENES_SIZES
from .testbeds.scenes import ScenesTestbed
from .testbeds.testbed import Testbed
from .variants import PAPER_METHODS, Variant, method_variants

# By task: the settings of its data and of itself.
TASK_ARGUMENTS: dict[str, tuple[type, type]] = {
    "classification": (DataConfig, ClassificationConfig),
    **{name: (kind.data_settings, kind.settings) for name, kind in DENSE_KINDS.items()},
}


@dataclass
class StudyConfig(Settings):
    """A study: what of it to run, and where its results go."""

    task: str = option("classification", "What to compare on: classification, semantic_segmentation, detection, ...")
    study_dir: str = option("outputs/study", "Folder of the study; a study in it goes on where it was.")
    results_dir: str | None = option(None, "Where table, figures and report are written; in study_dir if unset.")
    testbed: str | None = option(
        None, "A data set of the study on a real backbone, with its own recipe; see --shots.", choices=tuple(DATA)
    )
    material: str = option("data/study", "Where scripts/prepare_study.py wrote pictures and backbone.")
    study_size: str = option("full", "Without a dataset: the embedded study, full (minutes) or tiny.")
    learning_rates: list[float] = option(
        [], "The grid of learning rates; rates are chosen on the validation split.", above=0
    )
    seeds: int | None = option(None, "Runs of each variant at its chosen rate.", least=1)
    search_seeds: int | None = option(None, "Runs at each rate of the grid; all seeds if unset.", least=1)
    max_runs: int | None = option(None, "Stop after this many runs; the same command goes on from there.", least=1)
    report_only: bool = option(False, "Run nothing, write the results of the runs there are.")

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        super().__post_init__()
        if self.study_size not in STUDY_SIZES:
            raise ValueError(f"Unknown study_size {self.study_size!r}; choose one of {', '.join(STUDY_SIZES)}.")
        if self.testbed and self.task != "classification":
            raise ValueError(f"The testbed {self.testbed!r} is for classification, not for {self.task}.")
        if self.task not in TASK_ARGUMENTS:
            raise ValueError(f"Unknown task {self.task!r}; choose one of {', '.join(TASK_ARGUMENTS)}.")


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

    groups: list[str] = option(list(GROUPS), f"Some of {', '.join(GROUPS)}.")
    bottleneck_dim: int | None = option(None, "Bottleneck of the default Mona; 64, or 16 on the digits.", least=1)
    bottlenecks: list[int] = option([], "The other sizes; 16, 32 and 128, or 4, 8 and 32 on the digits.", least=1)
    full_rates: list[float] = option(
        [], "Grid of full fine-tuning, where backbones are compared; 0.003 on the digits.", above=0
    )
    backbones: list[str] = option([], "Models, or sizes of the digits' Swin, to train with Mona and in full.")


# The ablations on the digits are at one rate each, a good one for Mona and one for full fine-tuning.
DIGITS_MONA_RATE = 1e-2
DIGITS_FULL_RATE = 3e-3

# Without a grid of its own a study of a real data set takes the paper's rate, half of it and twice of it.
RATE_FACTORS = (0.5, 1.0, 2.0)


def run_comparison(
    study: StudyConfig, compare: CompareConfig, data: Any, config: Any, training: TrainingConfig
) -> Results | None:
    """Compare methods; see `scripts/compare.py`."""
    if compare.parameters:
        print(format_counts(count_all(methods=compare.methods)))
        return None
    embedded = is_embedded(study, data)
    options = {**(DIGITS_OPTIONS if embedded else {}), **compare.variant_options}
    variants = method_variants(compare.methods, options)
    testbed = make_testbed(study, data, config, training)
    results = run_study(study, testbed, make_plan(study, testbed, variants, training, embedded), REFERENCE)
    if compare.readme:
        path = Path(compare.readme)
        text = replace_block(path.read_text(encoding="utf-8"), results.summary(), block_name(study.task))
        path.write_text(text, encoding="utf-8")
    return results


def block_name(task: str) -> str:
    """Name of the markers between which a document shows the comparison on a task."""
    return "results" if task == "classification" else f"results-{task}"


def run_ablation(
    study: StudyConfig, ablate: AblateConfig, data: Any, config: Any, training: TrainingConfig
) -> Results:
    """Compare settings of Mona; see `scripts/ablate.py`."""
    embedded = is_embedded(study, data)
    digits = embedded and study.task == "classification"
    variants = ablation_variants(
        ablate.groups,
        ablate.bottleneck_dim or (16 if embedded else 64),
        ablate.bottlenecks or ((4, 8, 32) if embedded else (16, 32, 128)),
        ablate.backbones or (tuple(SWIN_WIDTHS) if digits else ()),
    )
    testbed = make_testbed(study, data, config, training)
    plan = make_plan(study, testbed, variants, training, embedded)
    full_rates = tuple(ablate.full_rates or ((DIGITS_FULL_RATE,) if digits else ()))
    if full_rates:
        plan = replace(plan, rates=plan.rates | {v.label: full_rates for v in variants if v.method == "full"})
    if digits and not study.learning_rates:
        plan = replace(plan, learning_rates=(DIGITS_MONA_RATE,))
    return run_study(study, testbed, plan, DEFAULT_LABEL)


def is_embedded(study: StudyConfig, data: Any) -> bool:
    """Whether the study is on the package's own small data, with models of their size."""
    return data.dataset is None and study.testbed is None


def make_testbed(study: StudyConfig, data: Any, config: Any, training: TrainingConfig) -> Testbed:
    """The data set that was asked for, or the embedded one of the task."""
    dense = study.task != "classification"
    if study.testbed:
        refuse_unused((data, config, training), ["shots", "data_dir"], f"--testbed {study.testbed} has")
        return RealTestbed(study.testbed, Path(study.material), data.shots, data.data_dir)
    if data.dataset is None:
        refuse_unused((data, config, training), used=["architecture"] if dense else [])
        if dense:
            return ScenesTestbed(study.task, config.architecture, SCENES_SIZES[study.study_size])
        return DigitsTestbed(STUDY_SIZES[study.study_size])
    if dense:
        return DenseTestbed(study.task, data, config, training)
    return ClassificationTestbed(data, config, training)


def make_plan(
    study: StudyConfig, testbed: Testbed, variants: Sequence[Variant], training: TrainingConfig, embedded: bool
) -> Plan:
    """The plan that was asked for, with the testbed's defaults for what was not."""
    seeds = study.seeds or testbed.seeds
    default_rates = testbed.learning_rates or tuple(f * training.learning_rate for f in RATE_FACTORS)
    # A run on the digits takes seconds, one on the scenes most of a minute.
    embedded_search = min(2, seeds) if study.task == "classification" else 1
    search_seeds = study.search_seeds or (embedded_search if embedded else None)
    grids = {} if study.learning_rates else {v.label: testbed.first_rates(v) for v in variants}
    return Plan(
        tuple(variants),
        tuple(study.learning_rates or default_rates),
        seeds,
        search_seeds or (1 if testbed.ladder else None),
        {label: rates for label, rates in grids.items() if rates},
        () if study.learning_rates else testbed.ladder,
    )


def run_study(config: StudyConfig, testbed: Testbed, plan: Plan, reference: str) -> Results:
    """Do the runs that are asked for and write what there is.

    Raises:
        `ValueError`: if there is no run to report.
    """
    transformers_logging.disable_progress_bar()
    folder = Path(config.study_dir)
    study = Study(testbed, plan, folder)
    target = Path(config.results_dir) if config.results_dir else folder / "results"
    taken = study.take_in(target / RECORDS_FILE)
    if taken:
        print(f"{taken} runs of {target / RECORDS_FILE} are taken over.")
    if not config.report_only:
        done = study.run(config.max_runs)
        print(f"{done} runs done, {len(study.missing())} known to be left; the same command goes on from here.")
    results, records = collect(study, reference)
    write_report(target, results, records, testbed.greater_is_better, plan.searched)
    print(f"\n{results.summary()}\n\nTable, figures and report are in {target}")
    return results


def collect(study: Study, reference: str) -> tuple[Results, list[Any]]:
    """The results of the runs a study has, best first in a comparison, in the plan's order in an ablation."""
    testbed, records = study.testbed, study.records()
    if not records:
        raise ValueError(f"There is no finished run in {study.runs}; run the study without --report_only.")
    left = Counter(key.label for key in study.missing())
    rows = make_rows(records, testbed.metric, testbed.greater_is_better, study.plan.searched, reference, left)
    if not any(row.group for row in rows):
        rows = sort_rows(rows, testbed.greater_is_better)
    results = Results(
        title=testbed.title,
        command=command_line(FREE_FLAGS),
        metric_name=testbed.metric_name,
        reference=reference,
        settings=settings_of(study.folder),
        versions=records[-1].versions or package_versions(),
        rows=rows,
    )
    return results, records


#: Settings that say how much of a study to do now, and where: they are no part of what makes its results.
FREE_SETTINGS = ("study_dir", "material", "results_dir", "max_runs", "report_only", "readme")
FREE_FLAGS = tuple(flag for name in FREE_SETTINGS for flag in flags_of(name))


def parse_study(kind: type, arguments: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Read a command line: settings of the study, of `kind`, of the task's data, of the task and of the loop.

    Args:
        kind (`type`): `CompareConfig` or `AblateConfig`.
        arguments (`Sequence[str]`, *optional*): `sys.argv[1:]` if left out.

    Raises:
        `ValueError`: if the task is unknown.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    task_flag = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    task_flag.add_argument("--task", default="classification")
    task = task_flag.parse_known_args(words)[0].task
    types = TASK_ARGUMENTS[StudyConfig(task=task).task]
    return parse_arguments([StudyConfig, kind, *types, TrainingConfig], words)
