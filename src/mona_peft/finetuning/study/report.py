"""What a study leaves for readers: table, figures and one self-contained HTML file, and the README's table."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from mona_peft.finetuning.files import Json, write_json
from mona_peft.finetuning.markdown import escape_markdown

from .plots import (
    plot_curves,
    plot_groups,
    plot_losses,
    plot_memory,
    plot_parameters,
    plot_rates,
    plot_seconds,
)
from .records import RECORDS_FILE, RESULTS_FILE, TESTBED_KEY, Record, read_lines, write_lines
from .selection import chosen_records
from .splits import CHOSEN_ON, VALIDATION
from .table import (
    Row,
    Unfinished,
    headers,
    rows_from_json,
    text_cells,
    to_csv,
    to_json,
    to_markdown,
    unfinished_to_markdown,
)
from .variants import settings_text


@dataclass(frozen=True)
class Results:
    """A study's results as they are committed.

    Args:
        title (`str`): What was compared on.
        command (`str`): What made them.
        metric_name (`str`): What to call the test metric.
        reference (`str`): What the others are tested against.
        settings (`Json`): Of testbed and plan.
        versions (`dict[str, str]`): Of the packages.
        rows (`list[Row]`): The table.
        unfinished (`list[Unfinished]`): Variants that are not in the table yet.
    """

    title: str
    command: str
    metric_name: str
    reference: str
    settings: Json
    versions: dict[str, str]
    rows: list[Row]
    unfinished: list[Unfinished] = field(default_factory=list)

    def to_json(self) -> Json:
        """As JSON values."""
        unfinished = {"unfinished": [asdict(one) for one in self.unfinished]} if self.unfinished else {}
        kept = {name: value for name, value in vars(self).items() if name != "unfinished"}
        return {**kept, "rows": to_json(self.rows), **unfinished}

    @classmethod
    def load(cls, folder: Path) -> Results:
        """Read the results in `folder`."""
        values = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
        unfinished = [Unfinished(**one) for one in values.get("unfinished", [])]
        return cls(**{**values, "rows": rows_from_json(values["rows"]), "unfinished": unfinished})

    @property
    def chosen_on(self) -> str:
        """What learning rates and weights were chosen on, in words."""
        return self.settings.get(TESTBED_KEY, {}).get(CHOSEN_ON, VALIDATION)

    def summary(self) -> str:
        """The table in Markdown, with a line that says how it came about."""
        count = count_seeds(self.rows)
        table, title = to_markdown(self.rows, self.metric_name, self.reference), escape_markdown(self.title)
        variants = self.settings.get("plan", {}).get("variants", [])
        lines = [settings_text(one) for one in variants if not one.get("group")]
        settings = f"\n\nSettings: {'; '.join(filter(None, lines))}." if any(lines) else ""
        ends = ", (end) where that is an end of the grid" if any(row.at_grid_end for row in self.rows) else ""
        parts = [table] if self.rows else []
        parts += [unfinished_to_markdown(self.unfinished, self.metric_name)] if self.unfinished else []
        tables = "\n\n".join(parts)
        return (
            f"{title[0].upper()}{title[1:]}; {count}; rates chosen on {self.chosen_on}{ends}; made by "
            f"`{self.command}`.\n\n{tables}{settings}"
        )


def count_seeds(rows: Sequence[Row]) -> str:
    """How many seeds the lines of a table are of, in words."""
    seeds = sorted({row.seeds for row in rows})
    if not seeds:
        return "no line is finished"
    return f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seed{'s' * (seeds[0] > 1)}"


def write_report(
    folder: Path,
    results: Results,
    records: Sequence[Record],
    searched: int | None = None,
) -> None:
    """Write `results.json`, `results.csv`, `table.md`, figures as PNG, `losses.json`, `report.html` and all records.

    Args:
        folder (`Path`): Created where missing.
        results (`Results`): The table and where it comes from.
        records (`Sequence[Record]`): The runs behind it, for the loss curves.
        searched (`int`, *optional*): How many seeds the whole grid was run with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RESULTS_FILE, results.to_json())
    (folder / "results.csv").write_text(to_csv(results.rows), encoding="utf-8")
    (folder / "table.md").write_text(results.summary() + "\n", encoding="utf-8")
    chosen = chosen_records(records, searched)
    write_json(folder / "losses.json", {label: [r.losses for r in group] for label, group in chosen.items()})
    images = {}
    write_lines([*records, *_others(folder / RECORDS_FILE, records)], folder / RECORDS_FILE)
    for name, figure in draw_figures(results, chosen, records).items():
        images[name] = to_png(figure)
        (folder / f"{name}.png").write_bytes(images[name])
    (folder / "report.html").write_text(to_html(results, images), encoding="utf-8")


def _others(path: Path, records: Sequence[Record]) -> list[Record]:
    """The runs that a file has besides those given, such as those of methods that this table leaves out."""
    keys = {record.key for record in records}
    return [record for record in read_lines(path) if record.key not in keys] if path.exists() else []


def draw_figures(
    results: Results,
    chosen: dict[str, list[Record]],
    records: Sequence[Record] = (),
) -> dict[str, Figure]:
    """The study's figures by name: those over rates and over time where the records have what they show."""
    rows, name = results.rows, results.metric_name
    figures = {
        "parameters": plot_parameters(rows, name),
        "losses": plot_losses(chosen),
        "seconds": plot_seconds(rows, name),
        "memory": plot_memory(rows, name),
    }
    if len({record.learning_rate for record in records}) > 1:
        figures["rates"] = plot_rates(records, name)
    if any(record.validations for group in chosen.values() for record in group):
        figures["curves"] = plot_curves(chosen, name)
    return {"settings": plot_groups(rows, name), **figures} if any(row.group for row in rows) else figures


def to_png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


CAPTIONS = {
    "settings": "Test figure of every setting, with 95% bootstrap intervals of the mean.",
    "parameters": "Test figure against the parameters trained in the backbone.",
    "losses": "Training loss at the chosen learning rate, mean over seeds.",
    "seconds": "Test figure against training time.",
    "memory": "Test figure against what training holds in memory besides the weights.",
    "rates": "Validation figure at every learning rate tried, mean over seeds.",
    "curves": "Validation figure over training time at the chosen learning rate, mean over seeds.",
}

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{padding:.25rem .7rem;border-bottom:1px solid #ccc;text-align:right}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}pre{overflow:auto;background:#f4f4f4;padding:1rem}"
)


def to_html(results: Results, images: dict[str, bytes]) -> str:
    """One HTML file that holds everything, the figures included."""
    title = html.escape(f"Comparison on {results.title}")
    head = "".join(f"<th>{html.escape(text)}</th>" for text in headers(results.metric_name, results.reference))
    body = "".join(_html_row(row) for row in results.rows)
    figures = "".join(_html_figure(name, png) for name, png in images.items())
    settings = html.escape(json.dumps({"settings": results.settings, "versions": results.versions}, indent=1))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"</head><body><h1>{title}</h1><p>Learning rates were chosen on {html.escape(results.chosen_on)}. "
        "Intervals are bootstrap intervals of the mean over seeds; p-values are of paired t-tests over seeds.</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{figures}"
        f"<h2>How it was made</h2><pre>{html.escape(results.command)}</pre><pre>{settings}</pre></body></html>\n"
    )


def _html_row(row: Row) -> str:
    return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in text_cells(row)) + "</tr>"


def _html_figure(name: str, png: bytes) -> str:
    caption = html.escape(CAPTIONS[name])
    source = base64.b64encode(png).decode("ascii")
    image = f'<img alt="{caption}" src="data:image/png;base64,{source}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def markers(name: str = "results") -> tuple[str, str]:
    """The lines of a document between which the table of that name stands."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def replace_block(text: str, block: str, name: str = "results") -> str:
    """Put `block` between the markers `name` of a document.

    Raises:
        ValueError: If the markers are not there once each, in order.
    """
    first, last = markers(name)
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end or first in rest or last in after:
        raise ValueError(f"The document must hold {first} and, after it, {last}, once each.")
    return f"{before}{begin}\n{block.strip()}\n{end}{after}"


def read_block(text: str, name: str = "results") -> str:
    """What stands between the markers `name` of a document."""
    first, last = markers(name)
    return text.partition(first)[2].partition(last)[0].strip()
