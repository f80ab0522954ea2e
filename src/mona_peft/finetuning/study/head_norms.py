"""Which norm of UperNet's heads comes nearest to batch norm over the whole batch, where a process sees a part of it.

The official recipe synchronises batch norm over all crops of a step, which is what one process computes that takes
all of them at once. With accumulation it does not. On the scenes every norm gets the same crops in the same order.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from transformers.utils import logging as transformers_logging

from mona_peft.finetuning.environment import command_line, package_versions
from mona_peft.finetuning.settings import Settings, option
from mona_peft.finetuning.study.testbeds.digits import DIGITS_OPTIONS
from mona_peft.finetuning.study.testbeds.scenes import SIZES, ScenesSize, ScenesTestbed
from mona_peft.finetuning.training import TrainingConfig

from .plan import Plan
from .records import TESTBED_KEY, Record
from .report import Results, write_report
from .runs import Study
from .table import make_rows
from .variants import Variant, method_variants

#: Crops a step, as in the official recipe.
BATCH = 16
#: The rate that serves Mona best in the study of methods on the scenes.
LEARNING_RATE = 1e-2


@dataclass(frozen=True)
class NormSetting:
    """A norm, and how many crops a process takes at once.

    Args:
        norm (`str`): A value of UperNet's `head_norm`.
        batch (`int`): Crops at once; gradients are accumulated over `BATCH`.
    """

    norm: str
    batch: int

    @property
    def label(self) -> str:
        """What tables call it."""
        return f"{self.norm}, {self.batch} crops at once"

    @property
    def accumulation(self) -> int:
        """Batches a step."""
        return BATCH // self.batch


#: The first is what the others are compared with.
NORMS = (
    NormSetting("batch", BATCH),
    NormSetting("batch", 8),
    NormSetting("batch", 2),
    NormSetting("group", 2),
    NormSetting("frozen", 2),
)


@dataclass
class NormsConfig(Settings):
    """The comparison of norms."""

    study_size: str = option("full", "full (a quarter of an hour) or tiny.", choices=tuple(SIZES))
    seeds: int = option(3, "Runs of each norm.", least=1)
    method: str = option("mona", "What trains besides the heads, a key of the methods; fixed for nothing.")
    steps: int = option(200, "Optimiser steps of a run.", least=1)
    pretraining_epochs: int | None = option(
        None, "Epochs that the backbone is pretrained over; those of the study of methods if unset.", least=1
    )
    study_dir: str = option("outputs/head-norms", "Folder of the runs; a study in it goes on where it was.")
    results_dir: str = option("outputs/head-norms/results", "Where table, figures and report are written.")


class NormsTestbed(ScenesTestbed):
    """UperNet on the scenes with one of the norms.

    Args:
        setting (`NormSetting`): Norm and batch.
        size (`ScenesSize`): Scenes and steps.
    """

    def __init__(self, setting: NormSetting, size: ScenesSize) -> None:
        super().__init__("semantic_segmentation", "upernet", size)
        self.setting = setting
        self.model = replace(self.model, options={**self.model.options, "head_norm": setting.norm})

    def describe(self) -> dict[str, object]:
        """What the scenes say, with norm and batch."""
        return {**super().describe(), **asdict(self.setting)}

    def training(self, learning_rate: float, seed: int) -> TrainingConfig:
        """Settings of one run's loop: `BATCH` crops a step, some at once."""
        usual = super().training(learning_rate, seed)
        batch, accumulation = self.setting.batch, self.setting.accumulation
        return replace(usual, batch_size=batch, gradient_accumulation_steps=accumulation)


def compare_norms(config: NormsConfig) -> Results:
    """Do the runs that are missing, and write the results."""
    transformers_logging.disable_progress_bar()
    usual, folder = SIZES[config.study_size], Path(config.study_dir)
    epochs = config.pretraining_epochs or usual.pretraining_epochs
    size = replace(usual, most_steps=min(config.steps, usual.most_steps or config.steps), pretraining_epochs=epochs)
    variant = method_variants([config.method], DIGITS_OPTIONS)[0]
    records: list[Record] = []
    for setting in NORMS:
        plan = Plan((variant,), (LEARNING_RATE,), config.seeds)
        own = folder / f"{setting.norm}-{setting.batch}"
        study = Study(NormsTestbed(setting, size), plan, own, folder / "prepared", measure_memory=False)
        study.run()
        records += [replace(record, label=setting.label) for record in study.records()]
    results = to_results(records, ScenesTestbed("semantic_segmentation", "upernet", size), variant)
    write_report(Path(config.results_dir), results, records)
    print(f"\n{results.summary()}\n\nTable, figures and report are in {config.results_dir}")
    return results


def to_results(records: list[Record], testbed: ScenesTestbed, variant: Variant) -> Results:
    """The table of the runs, the norms in their order."""
    reference = NORMS[0].label
    variants = [
        asdict(replace(variant, label=one.label, options={**variant.options, "accumulation": one.accumulation}))
        for one in NORMS
    ]
    plan = {"variants": variants, "learning_rates": [LEARNING_RATE]}
    return Results(
        title=f"{testbed.title}, method {variant.method}, norms of the heads, {BATCH} crops a step",
        command=command_line(("--study_dir", "--results_dir")),
        metric_name=testbed.metric_name,
        reference=reference,
        settings={TESTBED_KEY: testbed.describe(), "plan": plan},
        versions=package_versions(),
        rows=make_rows(records, testbed.metric, reference=reference),
    )
