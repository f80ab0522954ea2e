"""What `mona-peft compare` and `mona-peft ablate` do: run a study as far as asked, and write its results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from mona_peft.finetuning import recipes
from mona_peft.finetuning.arguments import flag_of
from mona_peft.finetuning.costs.counts import count_all, format_counts
from mona_peft.finetuning.data.sources.config import DataConfig, DenseDataConfig, SourceConfig
from mona_peft.finetuning.environment import command_line, package_versions
from mona_peft.finetuning.recipe_files import read_mapping
from mona_peft.finetuning.settings import refuse_unused
from mona_peft.finetuning.study.testbeds.cutouts import CutoutsTestbed
from mona_peft.finetuning.study.testbeds.digits import DIGITS_OPTIONS, STUDY_SIZES, SWIN_WIDTHS, DigitsTestbed
from mona_peft.finetuning.study.testbeds.real import RealTestbed
from mona_peft.finetuning.study.testbeds.recipes import METRIC_NAMES, ClassificationTestbed, DenseTestbed
from mona_peft.finetuning.study.testbeds.scenes import SIZES as SCENES_SIZES
from mona_peft.finetuning.study.testbeds.scenes import ScenesTestbed
from mona_peft.finetuning.study.testbeds.testbed import Testbed
from mona_peft.finetuning.tasks.config import (
    ClassificationConfig,
    ModelConfig,
    ObjectConfig,
    SemanticSegmentationConfig,
)
from mona_peft.finetuning.training.config import TrainingConfig

from .ablations import DEFAULT_LABEL, ablation_variants
from .citations import refresh_citations
from .config import CUTOUTS, REAL_SETS, AblateConfig, CompareConfig, StudyConfig, parse_study
from .peft_format import write_comparison
from .plan import Plan
from .records import RECORDS_FILE, TESTBED_KEY, VALIDATION, Record
from .report import Results, replace_block, write_report
from .runs import Study, settings_of
from .selection import chosen_records
from .table import REFERENCE, find_unfinished, make_rows, sort_rows
from .variants import Variant, method_variants

__all__ = [
    "AblateConfig",
    "CompareConfig",
    "StudyConfig",
    "make_plan",
    "make_testbed",
    "parse_study",
    "run_ablation",
    "run_comparison",
]

# The ablations on the digits are at one rate each, a good one for Mona and one for full fine-tuning.
DIGITS_MONA_RATE = 1e-2
DIGITS_FULL_RATE = 3e-3

# Without a grid of its own a study of a real data set takes the paper's rate, half of it and twice of it.
RATE_FACTORS = (0.5, 1.0, 2.0)


def run_comparison(
    study: StudyConfig, compare: CompareConfig, data: SourceConfig, config: ModelConfig, training: TrainingConfig
) -> Results | None:
    """Compare methods; see `mona-peft compare`."""
    if compare.parameters:
        print(format_counts(count_all(methods=compare.methods)))
        return None
    embedded = is_embedded(study, data)
    options = DIGITS_OPTIONS if embedded else own_settings(config, "options")
    asked = compare.variant_options
    options = {name: {**options.get(name, {}), **asked.get(name, {})} for name in {**options, **asked}}
    variants = method_variants(compare.methods, options, own_settings(config, "drop_path"))
    testbed = make_testbed(study, data, config, training)
    plan = make_plan(study, testbed, variants, training, embedded, own_settings(config, "learning_rate"))
    results = run_study(study, testbed, plan, REFERENCE)
    if compare.readme:
        path = Path(compare.readme)
        text = replace_block(path.read_text(encoding="utf-8"), results.summary(), block_name(study, data))
        path.write_text(refresh_citations(text, target_of(study).parent), encoding="utf-8")
    return results


def target_of(study: StudyConfig) -> Path:
    """Where the study's results are written."""
    return Path(study.results_dir) if study.results_dir else Path(study.study_dir) / "results"


def block_name(study: StudyConfig, data: SourceConfig) -> str:
    """Name of the markers between which a document shows a comparison: after its testbed, or its task."""
    if study.testbed == CUTOUTS:
        return f"results-{CUTOUTS}-{study.task}"
    if study.testbed:
        few = f"-{data.shots}" if isinstance(data, DataConfig) and data.shots else ""
        return f"results-{study.testbed}{few}"
    return "results" if study.task == "classification" else f"results-{study.task}"


def run_ablation(
    study: StudyConfig, ablate: AblateConfig, data: SourceConfig, config: ModelConfig, training: TrainingConfig
) -> Results:
    """Compare settings of Mona; see `mona-peft ablate`."""
    embedded = is_embedded(study, data)
    digits = embedded and study.task == "classification"
    options = own_settings(config, "options")
    variants = ablation_variants(
        ablate.groups,
        ablate.bottleneck_dim or options.get("mona", {}).get("bottleneck_dim") or (16 if embedded else 64),
        ablate.bottlenecks or ((4, 8, 32) if embedded else (16, 32, 128)),
        [model_of(name) for name in ablate.backbones] or (tuple(SWIN_WIDTHS) if digits else ()),
        "" if embedded else config.model,
        options.get("mona"),
        options.get("full"),
    )
    drop_paths = own_settings(config, "drop_path")
    variants = [replace(variant, drop_path=drop_paths.get(variant.method)) for variant in variants]
    testbed = make_testbed(study, data, config, training)
    plan = make_plan(study, testbed, variants, training, embedded, own_settings(config, "learning_rate"))
    full_rates = tuple(ablate.full_rates or ((DIGITS_FULL_RATE,) if digits else ()))
    if full_rates:
        plan = replace(plan, rates={**plan.rates, **{v.label: full_rates for v in variants if v.method == "full"}})
    if digits and not study.learning_rates:
        plan = replace(plan, learning_rates=(DIGITS_MONA_RATE,))
    return run_study(study, testbed, plan, DEFAULT_LABEL)


def own_settings(config: ModelConfig, name: str) -> dict[str, Any]:
    """By method, what a recipe has for it alone: its `options`, `drop_path` or `learning_rate`, where it has them."""
    return {method: section[name] for method, section in config.by_method.items() if section[name] is not None}


def is_embedded(study: StudyConfig, data: SourceConfig) -> bool:
    """Whether the study is on the package's own small data, with models of their size."""
    return data.dataset is None and study.testbed is None


def model_of(name: str) -> str:
    """The model of a packaged recipe; any other name as it is."""
    return read_mapping(recipes.path(name))["model"] if name in recipes.names() else name


def make_testbed(study: StudyConfig, data: SourceConfig, config: ModelConfig, training: TrainingConfig) -> Testbed:
    """The data set that was asked for, or the embedded one of the task."""
    if study.testbed == CUTOUTS:
        refuse_unused((data, config, training), [], f"--testbed {CUTOUTS} has")
        return CutoutsTestbed(study.task, Path(study.material))
    if study.testbed:
        refuse_unused((data, config, training), ["shots", "data_dir"], f"--testbed {study.testbed} has")
        assert isinstance(data, DataConfig), "these testbeds are of images with labels"
        return RealTestbed(study.testbed, Path(study.material), data.shots, data.data_dir)
    if isinstance(config, ObjectConfig | SemanticSegmentationConfig):
        assert isinstance(data, DenseDataConfig)
        if data.dataset is None:
            refuse_unused((data, config, training), used=["architecture"])
            return ScenesTestbed(study.task, config.architecture, SCENES_SIZES[study.study_size])
        return DenseTestbed(study.task, data, config, training, study.select_on, study.held_out)
    assert isinstance(data, DataConfig) and isinstance(config, ClassificationConfig)
    if data.dataset is None:
        refuse_unused((data, config, training))
        return DigitsTestbed(STUDY_SIZES[study.study_size])
    return ClassificationTestbed(data, config, training, study.select_on, study.held_out)


def make_plan(
    study: StudyConfig,
    testbed: Testbed,
    variants: Sequence[Variant],
    training: TrainingConfig,
    embedded: bool,
    own_rates: Mapping[str, float] | None = None,
) -> Plan:
    """The plan that was asked for, with the testbed's defaults for what was not.

    Without a grid, that of a method is around its own rate in the recipe (`own_rates`), or that of all.
    """
    seeds = study.seeds or testbed.seeds
    default_rates = testbed.learning_rates or tuple(f * training.learning_rate for f in RATE_FACTORS)
    # A run on the digits takes seconds, one on the scenes most of a minute.
    embedded_search = min(2, seeds) if study.task == "classification" else 1
    search_seeds = study.search_seeds or (embedded_search if embedded else None)
    own = {} if study.learning_rates else own_rates or {}
    rates = {v.label: tuple(f * own[v.method] for f in RATE_FACTORS) for v in variants if v.method in own}
    first = {} if study.learning_rates else {v.label: grid for v in variants if (grid := testbed.first_rates(v))}
    return Plan(
        tuple(variants),
        tuple(study.learning_rates or default_rates),
        seeds,
        search_seeds or (1 if testbed.ladder else None),
        rates | first,
        () if study.learning_rates else testbed.ladder,
    )


def run_study(config: StudyConfig, testbed: Testbed, plan: Plan, reference: str) -> Results:
    """Do the runs that are asked for and write what there is.

    Raises:
        ValueError: If there is no run to report.
    """
    transformers_logging.disable_progress_bar()
    folder = Path(config.study_dir)
    study = Study(testbed, plan, folder)
    target = target_of(config)
    taken = study.take_in(target)
    if taken:
        print(f"{taken} runs of {target / RECORDS_FILE} are taken over.")
    if not config.report_only:
        count = study.run(config.max_runs)
        print(f"{count} runs done, {len(study.missing())} known to be left; the same command goes on from here.")
    results, records = collect(study, reference, config.metric)
    write_report(target, results, records, plan.searched)
    if config.testbed in REAL_SETS:
        chosen = chosen_records(records, plan.searched)
        finished = {row.label for row in results.rows}
        runs = [record for label, group in chosen.items() for record in group if label in finished]
        write_comparison(target / "method_comparison", runs, results.settings[TESTBED_KEY])
    print(f"\n{results.summary()}\n\nTable, figures and report are in {target}")
    return results


def collect(study: Study, reference: str, metric: str | None = None) -> tuple[Results, list[Record]]:
    """The results of the runs a study has, best first in a comparison, in the plan's order in an ablation.

    Args:
        study (`Study`): With its runs.
        reference (`str`): Label of the variant that the others are tested against.
        metric (`str`, *optional*): Test metric to show, or `VALIDATION`; the testbed's test metric if left out.

    Raises:
        ValueError: If there is no run, or no such metric.
    """
    testbed, records = study.testbed, study.records()
    if not records:
        raise ValueError(f"There is no finished run in {study.runs}; run the study without --report_only.")
    metric = metric or testbed.metric
    whole = [record for record in records if not record.diverged]
    if any(metric not in record.metrics() for record in whole):
        raise ValueError(f"The runs have no metric {metric!r}; choose one of {', '.join(whole[0].metrics())}.")
    left, searched = Counter(key.label for key in study.missing()), study.plan.searched
    finished = [record for record in records if not left[record.label]]
    rows = make_rows(finished, metric, searched, reference)
    if not any(row.group for row in rows):
        rows = sort_rows(rows)
    results = Results(
        title=testbed.title,
        command=command_line(FREE_FLAGS),
        metric_name=name_of(metric, testbed),
        reference=reference,
        settings=settings_of(study.folder),
        versions=records[-1].versions or package_versions(),
        rows=rows,
        unfinished=find_unfinished(records, left, searched),
    )
    return results, records


def name_of(metric: str, testbed: Testbed) -> str:
    """What a table calls a metric of the testbed's runs."""
    if metric == VALIDATION:
        return f"validation {testbed.metric_name}"
    return testbed.metric_name if metric == testbed.metric else METRIC_NAMES.get(metric, metric)


#: Settings that say how much of a study to do now, and where: they are no part of what makes its results.
FREE_SETTINGS = ("study_dir", "material", "results_dir", "max_runs", "report_only", "readme")
FREE_FLAGS = tuple(flag_of(name) for name in FREE_SETTINGS)
