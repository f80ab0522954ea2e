"""The lines of a study's table, and the table as text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import mean

from mona_peft.finetuning import markdown
from mona_peft.finetuning.files import Json
from mona_peft.finetuning.markdown import escape_markdown

from .records import Record
from .selection import chosen_records
from .statistics import bootstrap_interval, paired_p_value, spread

REFERENCE = "full"

# Marks a chosen learning rate at the end of its grid, in tables of text.
END_MARK = " (end)"


@dataclass(frozen=True)
class Row:
    """One variant at its chosen learning rate.

    Args:
        label (`str`): The variant.
        group (`str`): The setting that it varies, in an ablation.
        learning_rate (`float`): Chosen on the validation split.
        at_grid_end (`bool`): Whether it is the lowest or the highest of several tried: another might be better still.
        seeds (`int`): How many runs there are.
        mean (`float`): Of the test metric.
        std (`float`): Sample standard deviation of it.
        low (`float`): Lower end of the 95% bootstrap interval of the mean.
        high (`float`): Upper end.
        p_value (`float`, *optional*): Paired t-test against the reference; `None` for the reference itself, or where
            there is nothing to test.
        validation (`float`): Mean validation metric.
        backbone_trainable (`int`): Parameters trained in the backbone.
        backbone_share (`float`): Their share of the backbone's parameters.
        head_trainable (`int`): Parameters of the head.
        seconds (`float`): Mean training time.
        memory_bytes (`float`): Mean of what training holds besides the weights.
        bytes_on_disk (`int`): Size of the saved weights.
    """

    label: str
    group: str
    learning_rate: float
    at_grid_end: bool
    seeds: int
    mean: float
    std: float
    low: float
    high: float
    p_value: float | None
    validation: float
    backbone_trainable: int
    backbone_share: float
    head_trainable: int
    seconds: float
    memory_bytes: float
    bytes_on_disk: int


def make_rows(
    records: Sequence[Record],
    metric: str = "accuracy",
    searched: int | None = None,
    reference: str = REFERENCE,
) -> list[Row]:
    """Summarise the records of a study.

    Args:
        records (`Sequence[Record]`): All of them; rates are chosen here.
        metric (`str`): Which test metric, or `VALIDATION`.
        searched (`int`, *optional*): How many seeds the whole grid was run with; all if left out.
        reference (`str`): Label of the variant that the others are tested against.
    """
    chosen = chosen_records(records, searched)
    by_seed = {label: {r.seed: r.metric(metric) for r in group} for label, group in chosen.items()}
    tried = {label: {r.learning_rate for r in records if r.label == label} for label in chosen}
    return [_row(group, tried[label], by_seed, metric, reference) for label, group in chosen.items()]


def _row(
    group: list[Record], tried: set[float], by_seed: dict[str, dict[int, float]], metric: str, reference: str
) -> Row:
    first = group[0]
    values = [record.metric(metric) for record in group]
    low, high = bootstrap_interval(values)
    compared = first.label != reference and reference in by_seed
    return Row(
        label=first.label,
        group=first.group,
        learning_rate=first.learning_rate,
        at_grid_end=len(tried) > 1 and first.learning_rate in (min(tried), max(tried)),
        seeds=len(group),
        mean=mean(values),
        std=spread(values),
        low=low,
        high=high,
        p_value=paired_p_value(by_seed[first.label], by_seed[reference]) if compared else None,
        validation=mean(record.validation for record in group),
        backbone_trainable=first.backbone_trainable,
        backbone_share=first.backbone_trainable / first.backbone_total if first.backbone_total else 0.0,
        head_trainable=first.head_trainable,
        seconds=mean(record.seconds for record in group),
        memory_bytes=mean(record.memory_bytes for record in group),
        bytes_on_disk=first.bytes_on_disk,
    )


@dataclass(frozen=True)
class Unfinished:
    """A variant with runs still to do: its rate may change with them, so its test metrics are not looked at.

    Args:
        label (`str`): The variant.
        runs (`int`): Runs done.
        left (`int`): Runs known to be left.
        learning_rate (`float`): The best so far.
        validation (`float`): Mean validation metric at that rate.
    """

    label: str
    runs: int
    left: int
    learning_rate: float
    validation: float


def find_unfinished(
    records: Sequence[Record], left: Mapping[str, int], searched: int | None = None
) -> list[Unfinished]:
    """The variants that have records and runs left, in the order of the records.

    Args:
        records (`Sequence[Record]`): Of the study.
        left (`Mapping[str, int]`): Runs still to do by label.
        searched (`int`, *optional*): How many seeds the whole grid is run with.
    """
    found = []
    for label, group in chosen_records(records, searched).items():
        if left.get(label):
            runs = sum(record.label == label for record in records)
            validation = mean(record.validation for record in group)
            found.append(Unfinished(label, runs, left[label], group[0].learning_rate, validation))
    return found


def unfinished_to_markdown(lines: Sequence[Unfinished], metric_name: str) -> str:
    """The unfinished variants as a Markdown table."""
    titles = ("unfinished", "runs", "left", "best rate so far", f"validation {metric_name}")
    cells = [(u.label, str(u.runs), str(u.left), f"{u.learning_rate:g}", f"{100 * u.validation:.1f}%") for u in lines]
    rows = [titles, ("---", *["---:"] * (len(titles) - 1)), *cells]
    return markdown.table(map(escape_markdown, row) for row in rows)


def sort_rows(rows: Sequence[Row]) -> list[Row]:
    """The best mean first; of equals the one with fewer parameters."""
    return sorted(rows, key=lambda row: (-row.mean, row.backbone_trainable))


HEADERS = ("", "trained in backbone", "share", "{metric}, mean ± std", "95% interval", "p against {reference}", "rate")


def text_cells(row: Row) -> list[str]:
    """A row as the cells under `HEADERS`."""
    return [
        row.label,
        f"{row.backbone_trainable:,}",
        f"{row.backbone_share:.1%}",
        f"{100 * row.mean:.1f}% ± {100 * row.std:.1f}",
        f"{100 * row.low:.1f} to {100 * row.high:.1f}",
        "" if row.p_value is None else f"{row.p_value:.3f}",
        f"{row.learning_rate:g}{END_MARK if row.at_grid_end else ''}",
    ]


def headers(metric_name: str, reference: str = REFERENCE) -> list[str]:
    """The column titles."""
    return [title.format(metric=metric_name, reference=reference) for title in HEADERS]


def to_markdown(rows: Sequence[Row], metric_name: str, reference: str = REFERENCE) -> str:
    """The rows as a Markdown table."""
    lines = [headers(metric_name, reference), ["---"] + ["---:"] * (len(HEADERS) - 1)]
    lines += [text_cells(row) for row in rows]
    return markdown.table(map(escape_markdown, cells) for cells in lines)


def to_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV, every field in full precision."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [f.name for f in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return buffer.getvalue()


def to_json(rows: Sequence[Row]) -> list[dict[str, object]]:
    """The rows as JSON values."""
    return [asdict(row) for row in rows]


def rows_from_json(values: Sequence[Json]) -> list[Row]:
    """The inverse of [`to_json`]."""
    return [Row(**value) for value in values]
