"""The average over several data sets, as the paper gives it for its three classification sets.

Each set has a study of its own, with its own recipe; here their tables become one, with a column for each set. A
method that a set lacks has no average.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

from mona_peft.finetuning import markdown
from mona_peft.finetuning.environment import command_line, package_versions
from mona_peft.finetuning.files import write_json, write_text
from mona_peft.finetuning.markdown import escape_markdown

from .records import RESULTS_FILE
from .report import Results, count_seeds

AVERAGE_FILE = "average.json"


@dataclass(frozen=True)
class AverageRow:
    """One method on all sets.

    Args:
        label (`str`): The method.
        means (`list[float]`): Mean test metric by set; `None` where the set has no finished row of it.
        stds (`list[float]`): Standard deviation over the seeds, by set.
        average (`float`): Of the means; `None` where one is missing.
    """

    label: str
    means: list[float | None]
    stds: list[float | None]
    average: float | None


def load_studies(folders: Sequence[str]) -> list[Results]:
    """The results of the studies that the average is of.

    Args:
        folders (`Sequence[str]`): Folders of results.

    Raises:
        ValueError: If there are fewer than two, one has no results, two are of the same data, or their metrics differ.
    """
    if len(folders) < 2:
        raise ValueError(f"An average is over several data sets; {len(folders)} folder of results was given.")
    missing = [folder for folder in folders if not (Path(folder) / RESULTS_FILE).is_file()]
    if missing:
        raise ValueError(
            f"There is no {RESULTS_FILE} in {', '.join(missing)}; give the folders that mona-peft compare wrote its "
            "table to."
        )
    studies = [_load(Path(folder)) for folder in folders]
    titles = [study.title for study in studies]
    twice = sorted({title for title in titles if titles.count(title) > 1})
    if twice:
        raise ValueError(f"Two folders hold results on the same data ({'; '.join(twice)}); give each set once.")
    names = list(dict.fromkeys(study.metric_name for study in studies))
    if len(names) > 1:
        raise ValueError(
            f"The studies show different metrics ({', '.join(names)}), which have no average; compare --metric gives "
            "another metric of the same runs. (VOC2007: --voc_labels single, as in the paper.)"
        )
    return studies


def _load(folder: Path) -> Results:
    try:
        return Results.load(folder)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{folder / RESULTS_FILE} is no result of mona-peft compare ({error}); make it again with --report_only."
        ) from error


def average_rows(studies: Sequence[Results]) -> list[AverageRow]:
    """A row for each method, the best average first, and at the end those without."""
    by_set = [{row.label: row for row in study.rows} for study in studies]
    labels = list(dict.fromkeys(label for rows in by_set for label in rows))
    rows = []
    for label in labels:
        found = [rows_of.get(label) for rows_of in by_set]
        means = [None if row is None else row.mean for row in found]
        known = [value for value in means if value is not None]
        whole = mean(known) if len(known) == len(means) else None
        rows.append(AverageRow(label, means, [None if row is None else row.std for row in found], whole))
    return sorted(rows, key=lambda row: (row.average is None, -(row.average or 0.0)))


def split_titles(titles: Sequence[str]) -> tuple[list[str], str]:
    """Titles of columns, and what follows the name of the set in all of them, such as the model."""
    parts = [title.partition(", ") for title in titles]
    endings = {ending for *_, ending in parts}
    return ([name for name, *_ in parts], endings.pop()) if len(endings) == 1 else (list(titles), "")


def to_markdown(studies: Sequence[Results], rows: Sequence[AverageRow], command: str) -> str:
    """The table, with a line that says how it came about."""
    columns, ending = split_titles([study.title for study in studies])
    metric = studies[0].metric_name
    on = f" ({ending})" if ending else ""
    chosen = "; ".join(f"{name}: {study.chosen_on}" for name, study in zip(columns, studies, strict=True))
    head = [["", *columns, "average"], ["---", *["---:"] * (len(columns) + 1)]]
    table = markdown.table(map(escape_markdown, cells) for cells in [*head, *(_cells(row) for row in rows)])
    seeds = count_seeds([row for study in studies for row in study.rows])
    text = escape_markdown(f"{metric[0].upper()}{metric[1:]}{on}, mean ± std; {seeds}")
    return f"{text}; rates chosen on: {escape_markdown(chosen)}; made by `{command}`.\n\n{table}"


def _cells(row: AverageRow) -> list[str]:
    metrics = [
        "" if value is None or std is None else f"{100 * value:.1f}% ± {100 * std:.1f}"
        for value, std in zip(row.means, row.stds, strict=True)
    ]
    return [row.label, *metrics, "" if row.average is None else f"{100 * row.average:.1f}%"]


def to_csv(columns: Sequence[str], rows: Sequence[AverageRow]) -> str:
    """The metrics in full precision."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["label", *columns, "average"])
    writer.writerows([row.label, *row.means, row.average] for row in rows)
    return buffer.getvalue()


def write_average(folders: Sequence[str], target: Path) -> list[AverageRow]:
    """Write `average.json`, `average.csv` and `table.md`, and print the table.

    Args:
        folders (`Sequence[str]`): Folders of results, a data set each.
        target (`Path`): Where the files go.

    Raises:
        ValueError: If the results cannot be averaged; see `load_studies`.
    """
    studies = load_studies(folders)
    target.mkdir(parents=True, exist_ok=True)
    rows, command = average_rows(studies), command_line(("--results_dir",))
    columns = [study.title for study in studies]
    text = to_markdown(studies, rows, command)
    sets = [
        {"title": s.title, "command": s.command, "versions": s.versions, "chosen_on": s.chosen_on} for s in studies
    ]
    content: dict[str, object] = {"command": command, "versions": package_versions(), "sets": sets}
    content |= {"metric_name": studies[0].metric_name, "rows": [asdict(row) for row in rows]}
    write_json(target / AVERAGE_FILE, content)
    write_text(target / "average.csv", to_csv(columns, rows))
    write_text(target / "table.md", text + "\n")
    print(f"{text}\n\nThe table is in {target}")
    return rows
