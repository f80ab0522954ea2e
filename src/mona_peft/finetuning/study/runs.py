"""A study: every variant at every learning rate, over seeds, each run's result a file.

With `search_seeds` below `seeds`, the grid of learning rates is run for the first seeds alone, and the other seeds at
the rate chosen by them. Runs whose file is there are left out, so a stopped study continues where it was, and a study
can be extended by variants, rates and seeds. Several processes may share one, best in different orders.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from accelerate.utils import send_to_device
from tqdm.auto import tqdm

from mona_peft.finetuning.costs.memory import training_memory
from mona_peft.finetuning.environment import package_versions
from mona_peft.finetuning.files import Json, read_json, write_json
from mona_peft.finetuning.repository import weights_size
from mona_peft.finetuning.settings import with_new_names
from mona_peft.finetuning.study.testbeds.testbed import Testbed
from mona_peft.finetuning.training import Task, Trainer
from mona_peft.finetuning.training.loop import REPOSITORY
from mona_peft.finetuning.training.run_folder import LOG_FILE, read_log
from mona_peft.summary import summary

from .plan import Plan
from .records import RECORDS_FILE, RESULTS_FILE, TESTBED_KEY, Record, RunKey, load_records, read_lines
from .selection import choose_rate
from .variants import Variant

SETTINGS_FILE = "study.json"
#: Fields of a variant that make its runs what they are.
SETTINGS = ("method", "options", "backbone", "drop_path")


class Study:
    """Runs a plan on a testbed.

    Args:
        testbed (`Testbed`): Data, backbone and recipe.
        plan (`Plan`): What to run.
        folder (`Path`): Of the study; results are in `runs`.
        prepared (`Path`, *optional*): Folder of what all runs need, such as pretrained backbones; in `folder` if left
            out.
        keep_models (`bool`): Whether the folders of the runs stay, in `models`, trained models and all.
        measure_memory (`bool`): Whether to count what training holds in memory. It draws random numbers.

    Raises:
        ValueError: If the folder holds a study on another testbed.
    """

    def __init__(
        self,
        testbed: Testbed,
        plan: Plan,
        folder: Path,
        prepared: Path | None = None,
        keep_models: bool = False,
        measure_memory: bool = True,
    ) -> None:
        self.testbed = testbed
        self.plan = plan
        self.folder = folder
        self.prepared = prepared or folder / "prepared"
        self.keep_models = keep_models
        self.measure_memory = measure_memory
        self.runs = folder / "runs"
        self.variants = {variant.label: variant for variant in plan.variants}
        self.described: Json = _as_json(testbed.describe())  # once: it may load the data
        self._claim()

    def _claim(self) -> None:
        """Write what the study is, or check that the folder holds this one."""
        path = self.folder / SETTINGS_FILE
        if path.exists():
            self._confirm_testbed(json.loads(path.read_text(encoding="utf-8"))[TESTBED_KEY], self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        plan: dict[str, object] = {
            "variants": [asdict(v) for v in self.plan.variants],
            "learning_rates": self.plan.learning_rates,
        }
        plan |= {"seeds": self.plan.seeds, "search_seeds": self.plan.search_seeds, "rates": self.plan.rates}
        plan |= {"ladder": self.plan.ladder} if self.plan.ladder else {}
        write_json(path, {TESTBED_KEY: self.described, "plan": plan})

    def _confirm_testbed(self, settings: Json, folder: Path) -> None:
        """Refuse a folder whose runs are of another testbed."""
        before, now = with_new_names(settings), self.described
        differing = [k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k)]
        if differing:
            listed = "; ".join(f"{k}: {before.get(k)!r} then, {now.get(k)!r} now" for k in differing)
            raise ValueError(f"{folder} holds another study ({listed}). Choose another folder.")

    def records(self) -> list[Record]:
        """The results so far of the runs that the plan asks for, in its order.

        Raises:
            ValueError: If a run of one of its variants was made with other settings.
        """
        found = {record.key: record for record in load_records(self.runs)}
        for record in found.values():
            if record.label in self.variants:
                self._confirm(record)
        kept = []
        for variant in self.plan.variants:
            rates, _ = self._grown(variant, found)
            asked = (RunKey(variant.label, rate, seed) for rate in sorted(rates) for seed in range(self.plan.seeds))
            kept += [found[key] for key in asked if key in found]
        return kept

    def _confirm(self, record: Record) -> None:
        """Refuse a run that is not of the plan's variant of that name."""
        then, now = (
            _as_json({name: getattr(one, name) for name in SETTINGS}) for one in (record, self.variants[record.label])
        )
        names = [name for name in SETTINGS if then[name] != now[name]]
        if names:
            listed = "; ".join(f"{name}: {then[name]!r} then, {now[name]!r} now" for name in names)
            raise ValueError(
                f"{self.runs / record.key.file_name} is a run of {record.label!r} with other settings ({listed}). "
                "Choose another folder, or delete such runs."
            )

    def take_in(self, folder: Path) -> int:
        """Take over the runs of a folder of results that the study does not have, such as committed ones.

        Returns:
            `int`: How many there were.

        Raises:
            ValueError: If the results are of another testbed.
        """
        path = folder / RECORDS_FILE
        found = read_lines(path) if path.exists() else []
        new = [record for record in found if not (self.runs / record.key.file_name).exists()]
        if new:
            before = read_json(folder / RESULTS_FILE, f"It must say what study {path} is of; move that file away.")
            self._confirm_testbed(before["settings"][TESTBED_KEY], folder)
        for record in new:
            record.save(self.runs)
        return len(new)

    def missing(self) -> list[RunKey]:
        """The runs still to do: those of the grids, and, for each variant whose grid is whole, its other seeds.

        One of each variant in turn, so that a study that is stopped has something of all.
        """
        records = {record.key: record for record in self.records()}
        by_variant = [[k for k in self._wanted(v, records) if k not in records] for v in self.plan.variants]
        return [key for turn in zip_longest(*by_variant) for key in turn if key is not None]

    def _wanted(self, variant: Variant, records: dict[RunKey, Record]) -> list[RunKey]:
        """The runs of the variant's grid, as far as it has grown; where all are done, its runs at the best rate."""
        rates, best = self._grown(variant, records)
        return self.plan.search(variant, rates) if best is None else self.plan.rest(variant, best)

    def _grown(self, variant: Variant, records: dict[RunKey, Record]) -> tuple[tuple[float, ...], float | None]:
        """The variant's grid, as far as the runs there are let it grow, and the best of it where all are done.

        A rate of the ladder that has been tried is one of the grid, wherever that began then.
        """
        tried = {key.learning_rate for key in records if key.label == variant.label} & set(self.plan.ladder)
        rates = tuple(dict.fromkeys((*self.plan.grid(variant), *sorted(tried))))
        while records.keys() >= set(search := self.plan.search(variant, rates)):
            best = choose_rate(records[key] for key in search)
            further = self.plan.beyond(rates, best)
            if further is None:
                return rates, best
            rates = (*rates, further)
        return rates, None

    def run(self, max_runs: int | None = None, order: random.Random | None = None) -> int:
        """Do the missing runs.

        Args:
            max_runs (`int`, *optional*): Stop after this many.
            order (`random.Random`, *optional*): Shuffles the runs; by default they go in the order of the plan.

        Returns:
            `int`: How many runs were done.
        """
        self.testbed.prepare(list(self.plan.variants), self.prepared)
        count = 0
        with tqdm(total=max_runs, desc="study", unit="run", dynamic_ncols=True) as bar:
            while (keys := self.missing()) and (max_runs is None or count < max_runs):
                if order is not None:
                    order.shuffle(keys)
                # Ten at a time: the rates chosen meanwhile open more runs.
                for key in keys[: min(10, len(keys) if max_runs is None else max_runs - count)]:
                    if (self.runs / key.file_name).exists():  # done meanwhile by another process
                        continue
                    bar.set_postfix_str(f"{key.label}, rate {key.learning_rate:g}, seed {key.seed}")
                    self.run_one(key).save(self.runs)
                    count += 1
                    bar.update()
        return count

    def run_one(self, key: RunKey) -> Record:
        """Train and evaluate one run; its folder is deleted afterwards, unless models are kept.

        A run whose loss or weights are not finite any more is a result too: its figures count as zero.
        """
        variant = self.variants[key.label]
        task = self.testbed.task(variant, key.seed, self.prepared)
        self._confirm_data(key.seed, task)
        folder = self.run_folder(key)
        config = self.testbed.training(key.learning_rate, key.seed)
        again = config.no_checkpoints  # or the run goes on
        trainer = Trainer(task, replace(config, output_dir=str(folder), resume=not again, overwrite_output_dir=again))
        try:
            return self._record(variant, key, trainer, folder)
        except FloatingPointError as error:
            tqdm.write(f"{key.label}, rate {key.learning_rate:g}, seed {key.seed} counts as zero: {error}")
            return self._diverged(variant, key, trainer, folder, str(error))
        finally:
            trainer.close()
            if not self.keep_models:
                shutil.rmtree(folder, ignore_errors=True)

    def _confirm_data(self, seed: int, task: Task) -> None:
        """Refuse data that the runs there are of this seed did not have."""
        before = {one.data for one in self.records() if one.seed == seed} - {""}
        now = fingerprint(task)
        if before - {now}:
            raise ValueError(
                f"The runs of seed {seed} in {self.runs} had other images, or images with other labels (fingerprint "
                f"{', '.join(sorted(before))} then, {now} now). Put the data back as it was, or choose another folder."
            )

    def run_folder(self, key: RunKey) -> Path:
        """Folder of one run: while it runs, or for good where models are kept."""
        name = key.file_name.removesuffix(".json")
        return self.folder / "models" / name if self.keep_models else self.folder / "running" / f"{name}-{os.getpid()}"

    def model(self, record: Record) -> Path:
        """Repository of the model that a run trained, where models are kept."""
        return self.run_folder(record.key) / REPOSITORY

    def _record(self, variant: Variant, key: RunKey, trainer: Trainer, folder: Path) -> Record:
        memory = 0
        if self.measure_memory:
            memory = training_memory(trainer.task, trainer.model.train(), first_batch(trainer))
        started = time.process_time()
        figures = trainer.train()
        on_cpu = trainer.accelerator.device.type == "cpu" and trainer.config.num_workers == 0
        seconds = round(time.process_time() - started, 2) if on_cpu else figures["seconds"]
        tested = trainer.evaluate("test")
        if tested is None:
            raise ValueError(f"The testbed {self.testbed.title!r} has no test split to report.")
        trainer.save(figures)
        return Record(
            **self._facts(variant, key, trainer, folder),
            validation=figures[f"best_{trainer.metric}"],
            test={name: value for name, value in tested[0].items() if isinstance(value, int | float)},
            seconds=seconds,
            memory_bytes=memory,
            bytes_on_disk=weights_size(folder / REPOSITORY),
        )

    def _diverged(self, variant: Variant, key: RunKey, trainer: Trainer, folder: Path, reason: str) -> Record:
        facts = self._facts(variant, key, trainer, folder)
        return Record(**facts, validation=0.0, test={self.testbed.metric: 0.0}, diverged=reason)

    def _facts(self, variant: Variant, key: RunKey, trainer: Trainer, folder: Path) -> dict[str, Any]:
        """The fields of a record that every run has, however it ended."""
        counts, log = summary(trainer.bare_model), read_log(folder / LOG_FILE)
        judged = [r for r in log if r["kind"] == "validation" and trainer.metric in r]
        return {
            **asdict(variant),
            "learning_rate": key.learning_rate,
            "seed": key.seed,
            "backbone_trainable": counts.backbone.trainable,
            "backbone_total": counts.backbone.total,
            "head_trainable": counts.head.trainable,
            "losses": [[r["step"], r["loss"]] for r in log if r["kind"] == "train"],
            "validations": [[r["step"], r[trainer.metric]] for r in judged],
            "data": fingerprint(trainer.task),
            "versions": package_versions(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def _as_json(value: object) -> Json:
    """A value as it is once it has been written and read: lists for tuples."""
    return json.loads(json.dumps(value))


def fingerprint(task: Task) -> str:
    """Of the task's data, with the training images that the seed drew; empty where it has none."""
    return str(task.describe().get("data_fingerprint", ""))


def first_batch(trainer: Trainer) -> dict[str, object]:
    """The first training samples as a batch on the model's device, made apart from the loop's own loader."""
    dataset = trainer.task.dataset("train")
    samples = [dataset[index] for index in range(trainer.config.batch_size)]  # type: ignore[index]
    return send_to_device(trainer.task.collate("train")(samples), trainer.accelerator.device)


def settings_of(folder: Path) -> Json:
    """What `study.json` says of the study in `folder`."""
    return json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
