"""The fault campaign: `python -m tests.finetuning.faults.campaign --kills 200 --report docs/reliability.md`.

Runs are killed at random moments and resumed until they end, and have to end as runs that were never killed, bit for
bit; then come the other faults, which are the tests of this folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from mona_peft.finetuning.environment import package_versions
from mona_peft.finetuning.study.plan import Plan
from mona_peft.finetuning.study.report import replace_block
from mona_peft.finetuning.study.runs import Study
from mona_peft.finetuning.study.testbeds.digits import STUDY_SIZES, DigitsTestbed
from mona_peft.finetuning.study.variants import Variant
from mona_peft.finetuning.training import Trainer
from tests.finetuning.tasks.tiny_classifier import write_classifier
from tests.finetuning.tasks.tiny_dense import tiny_task, tiny_training, write_swin
from tests.finetuning.training.killing import kill_until_done
from tests.finetuning.training.test_kill import assert_same_run, train_digits

MEASURED = {"seconds", "memory_bytes", "versions", "created"}


def train_dense(swin: Path, folder: Path, resume: bool) -> None:
    """A segmenter on composed scenes, for a few steps."""
    training = tiny_training(folder, num_epochs=3, checkpoint_steps=1, resume=resume)
    Trainer(tiny_task("upernet", swin), training).train()


def run_study(prepared: Path, folder: Path, resume: bool) -> None:
    """A study of two methods on the digits; it goes on by itself."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "prepared").exists():
        (folder / "prepared").symlink_to(prepared)
    variants = (Variant("mona", "mona", {"bottleneck_dim": 4}), Variant("fixed", "fixed"))
    Study(DigitsTestbed(STUDY_SIZES["tiny"]), Plan(variants, (1e-3, 1e-2), 1), folder).run()


def assert_same_study(first: Path, second: Path) -> None:
    """The same records, but for what is measured of the machine."""
    records = [
        {path.name: {k: v for k, v in json.loads(path.read_text()).items() if k not in MEASURED} for path in found}
        for found in (sorted((folder / "runs").glob("*.json")) for folder in (first, second))
    ]
    assert records[0] == records[1] and records[0]


def kill_runs(
    name: str, target: Callable[..., Any], same: Callable[[Path, Path], None], kills: int, seconds: float
) -> dict[str, Any]:
    """Kill runs of `target` until there were so many kills; each run that ends has to be as one never killed.

    No run is begun after so many seconds.
    """
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        target(folder / "whole", False)
        started = time.perf_counter()
        target(folder / "again", False)
        longest = (time.perf_counter() - started) / 3
        killed = runs = 0
        while killed < kills and (not runs or time.monotonic() - begun < seconds):
            cut = folder / f"cut{runs}"
            killed += kill_until_done(target, (cut,), min(kills - killed, 10), longest, seed=runs)
            same(folder / "whole", cut)
            runs += 1
            print(f"{name}: {killed} kills, {runs} runs the same to the last bit", flush=True)
    return {
        "fault": f"SIGKILL at a random moment, {name}",
        "times": killed,
        "outcome": f"{runs} runs the same, bit for bit",
    }


def other_faults() -> list[dict[str, Any]]:
    """Run the tests of this folder, and count them by what they are about."""

    class Outcomes:
        passed: Counter[str] = Counter()
        failed: Counter[str] = Counter()

        def pytest_runtest_logreport(self, report: Any) -> None:
            name = report.location[2].partition("[")[0].removeprefix("test_").replace("_", " ")
            if report.failed:
                self.failed[name] += 1
            elif report.when == "call" and report.passed:
                self.passed[name] += 1

    outcomes = Outcomes()
    pytest.main([str(Path(__file__).parent), "-q", "-p", "no:cacheprovider"], plugins=[outcomes])
    return [
        {
            "fault": name,
            "times": outcomes.passed[name] + outcomes.failed[name],
            "outcome": f"{outcomes.failed[name]} failed" if outcomes.failed[name] else "as it should",
        }
        for name in dict.fromkeys([*outcomes.passed, *outcomes.failed])
    ]


def write_report(path: Path, rows: list[dict[str, Any]], minutes: float) -> None:
    """Write the figures, with command and machine, between the page's markers `faults`."""
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    lines = [
        "| Fault | Times | Outcome |",
        "|---|---|---|",
        *(f"| {row['fault']} | {row['times']} | {row['outcome']} |" for row in rows),
        "",
        f"Command: `python -m tests.finetuning.faults.campaign {shlex.join(sys.argv[1:])}`, {minutes:.0f} minutes on "
        f"{os.cpu_count()} cores ({platform.machine()}, {platform.system()}); {versions}.",
    ]
    path.write_text(replace_block(path.read_text(encoding="utf-8"), "\n".join(lines), "faults"), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="for the kills; fewer are done then")
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--kills_only", action="store_true", help="leave the other faults out")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        models = Path(place)
        classifier, swin = write_classifier(models / "classifier"), write_swin(models / "swin")
        DigitsTestbed(STUDY_SIZES["tiny"]).prepare([Variant("fixed", "fixed")], models / "prepared")
        kinds = {
            "classification": (partial(train_digits, classifier), assert_same_run, 0.5),
            "semantic segmentation": (partial(train_dense, swin), assert_same_run, 0.3),
            "a study": (partial(run_study, models / "prepared"), assert_same_study, 0.2),
        }
        rows = [
            kill_runs(name, run, same, round(options.kills * share), options.minutes * 60 * share)
            for name, (run, same, share) in kinds.items()
        ]
    if not options.kills_only:
        rows += other_faults()
    write_report(options.report, rows, (time.perf_counter() - started) / 60)


if __name__ == "__main__":
    main()
