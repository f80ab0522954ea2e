"""Look at a data set: counts by split and class, what is wrong with it, and a page with pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from mona_peft.finetuning.data.data_set import DataSet
from mona_peft.finetuning.data.faults import Finding, count_classes, find_faults
from mona_peft.finetuning.data.fingerprint import digest
from mona_peft.finetuning.data.images import Source

from .config import CheckConfig
from .kinds import KINDS, count_rows, guess_task
from .page import write_page

#: Of files that training refuses, so many are listed.
MOST_LISTED = 20


@dataclass
class Report:
    """What was found.

    Args:
        name (`str`): Of the data set.
        task (`str`): A key of `KINDS`.
        data (`DataSet`, *optional*): The data set; none if it cannot be loaded.
        counts (`dict[str, Counter[str]]`): How often each class is in each split.
        findings (`list[Finding]`): What training refuses or warns of.
    """

    name: str
    task: str
    data: DataSet | None = None
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def refused(self) -> list[Finding]:
        """What training refuses."""
        return [finding for finding in self.findings if finding.refused]

    def sizes(self) -> dict[str, int]:
        """Images of each split."""
        return {} if self.data is None else {split: len(rows) for split, rows in self.data.splits.items()}


def look_at(folder: str, config: CheckConfig) -> Report:
    """Load and read a whole data set, and collect what is wrong with it.

    Args:
        folder (`str`): The data set.
        config (`CheckConfig`): What it is for, and what its files do not say.

    Raises:
        ValueError: If there is no such folder or file.
    """
    if not Path(folder).exists():
        raise ValueError(f"There is no folder {folder}.")
    task = config.task or guess_task(Path(folder))
    report = Report(Path(folder).resolve().name, task)
    unreadable: list[Source] = []
    try:
        report.data = KINDS[task].load(folder, config, unreadable)
    except (ValueError, OSError) as error:
        report.findings.append(Finding(" ".join(str(error).split()), refused=True))
        return report
    report.findings += [Finding(f"Cannot read {source}.", refused=True) for source in unreadable]
    report.counts = count_classes(report.data)
    problems = _read_all(report)
    report.findings += [Finding(text, refused=True) for text in problems[:MOST_LISTED]]
    if len(problems) > MOST_LISTED:
        report.findings.append(Finding(f"... and {len(problems) - MOST_LISTED} more.", refused=True))
    report.findings += find_faults(report.data, report.counts)
    return report


def _read_all(report: Report) -> list[str]:
    """Read every sample to its end; count the classes of those that are not counted yet."""
    read, counted = KINDS[report.task].read, bool(report.counts)
    problems = []
    for split, size in report.sizes().items():
        counts: Counter[str] = Counter()
        for row in tqdm(range(size), desc=f"reading {split}", unit="image", disable=None):
            problem, found = read(report.data, split, row)
            counts.update(found)
            if problem is not None:
                problems.append(problem)
        if not counted:
            report.counts[split] = counts
    return problems


def summary(report: Report) -> str:
    """The report in lines: a table of the classes, and a line for each finding."""
    lines = [f"{report.name}, for {report.task}"]
    if report.data is not None:
        lines += ["", *table_lines(report.sizes(), report.counts, report.data.class_names, KINDS[report.task].counted)]
    lines += ["", *(f"{'refused' if one.refused else 'warning'}: {one.text}" for one in report.findings)]
    return "\n".join(lines if report.findings else [*lines, "Nothing wrong was found."])


def table_lines(
    sizes: Mapping[str, int], counts: Mapping[str, Mapping[str, int]], class_names: Sequence[str], counted: str
) -> list[str]:
    """A table of images and of what is counted of each class, by split, in columns of text."""
    rows = count_rows(sizes, counts, class_names)
    widths = [max(len(row[column]) for row in rows) for column in range(len(sizes) + 1)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    return [*lines[:2], f"{counted} of each class:", *lines[2:]]


def check(folder: str, config: CheckConfig) -> Report:
    """What `mona-peft data check` does: look, print, write the page.

    Args:
        folder (`str`): The data set.
        config (`CheckConfig`): What to look at, and where the page goes.

    Raises:
        ValueError: If training would refuse the data.
    """
    report = look_at(folder, config)
    print(summary(report))
    place = digest([str(Path(folder).resolve())])[:6]  # folders of one name have a page each
    page = Path(config.page or Path("outputs") / f"{report.name}-{place}-check.html")
    if report.data is not None:
        write_page(page, report.name, report.data, report.counts, report.findings, KINDS[report.task], config)
        print(f"\nPictures are in {page}.")
    if report.refused:
        raise ValueError(f"{len(report.refused)} faults of {folder} would keep a run from training.")
    return report
