"""The page of a data set: counts, findings and sample pictures, in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from mona_peft.finetuning.data.data_set import DataSet
from mona_peft.finetuning.data.faults import Finding
from mona_peft.finetuning.files import write_text

from .config import CheckConfig
from .kinds import Kind, count_rows

SIDE = 320
STYLE = (
    "body{font:15px/1.4 sans-serif;margin:2em;max-width:90em}td,th{padding:.1em .8em;text-align:right}"
    "td:first-child{text-align:left}figure{display:inline-block;margin:.3em;vertical-align:top;max-width:20em}"
    "figcaption{font-size:.85em;overflow-wrap:anywhere}img{max-width:100%}.refused{color:#b00020}"
)


def write_page(
    path: Path,
    name: str,
    data: DataSet,
    counts: Mapping[str, Mapping[str, int]],
    findings: Sequence[Finding],
    kind: Kind,
    config: CheckConfig,
) -> None:
    """Write the page.

    Args:
        path (`Path`): Of the HTML file.
        name (`str`): Of the data set.
        data (`DataSet`): The data set.
        counts (`Mapping`): How often each class is in each split.
        findings (`Sequence[Finding]`): What is wrong.
        kind (`Kind`): What kind of data it is.
        config (`CheckConfig`): How many pictures, and the seed that draws them.
    """
    parts = [f"<!doctype html><meta charset=utf-8><title>{escape(name)}</title><style>{STYLE}</style>"]
    parts.append(f"<h1>{escape(name)}</h1>{_table(data, counts, kind.counted)}<h2>Findings</h2>")
    lines = [f"<li class={'refused' if one.refused else 'warning'}>{escape(one.text)}</li>" for one in findings]
    parts.append(f"<ul>{''.join(lines)}</ul>" if lines else "<p>Nothing wrong was found.</p>")
    for split, rows in data.splits.items():
        parts.append(f"<h2>{escape(split)}</h2>")
        drawn = np.random.default_rng(config.seed).permutation(len(rows))[: config.samples]
        parts += [_figure(data, split, int(row), kind) for row in sorted(drawn)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "\n".join(parts) + "\n")


def _table(data: DataSet, counts: Mapping[str, Mapping[str, int]], counted: str) -> str:
    """Images of each split, and what is counted of each class."""
    sizes = {split: len(rows) for split, rows in data.splits.items()}
    splits, images, *classes = count_rows(sizes, counts, data.class_names)
    cells = [splits, images, *([f"{name} ({counted})", *numbers] for name, *numbers in classes)]
    rows = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in cells)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _figure(data: DataSet, split: str, row: int, kind: Kind) -> str:
    """A drawn sample, or why it cannot be drawn."""
    try:
        picture, caption = kind.draw(data, split, row)
    except (ValueError, OSError) as error:
        return f"<figure><figcaption class=refused>{escape(str(error))}</figcaption></figure>"
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    stored = io.BytesIO()
    picture.save(stored, "JPEG", quality=85)
    encoded = base64.b64encode(stored.getvalue()).decode("ascii")
    image = f'<img src="data:image/jpeg;base64,{encoded}" alt="">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"
