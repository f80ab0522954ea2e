"""What a run says: a line an evaluation, and, when it is over, the figures and where everything is."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from mona_peft.finetuning.files import Json

SPLITS = ("validation", "test")
#: Files that a run may have written, by their kind.
PLACES = {
    "trained model": "model",
    "curves": "curves.png",
    "mistakes": "mistakes_{split}.png",
    "confusions": "confusion_{split}.png",
    "predictions": "predictions_{split}.png",
    "figures": "metrics.json",
}


def evaluation_line(
    epoch: float, loss: float, metric: str, value: float, best: float | None, best_epoch: float
) -> str:
    """One evaluation on the validation split.

    Args:
        epoch (`float`): Epochs done.
        loss (`float`): On the validation split where the task computes it there, else of the last training step.
        metric (`str`): The metric that selects the best weights.
        value (`float`): Its value.
        best (`float`, *optional*): Its best value so far.
        best_epoch (`float`): When that was.
    """
    shown = "" if best is None else f"  best {best:.4f} (epoch {best_epoch:g})"
    return f"epoch {epoch:g}  loss {loss:.4f}  {metric} {value:.4f}{shown}"


def closing_text(folder: Path, figures: Json, metrics: Iterable[str]) -> str:
    """Figures of the splits, where everything is, and the command that predicts.

    Args:
        folder (`Path`): Of the run.
        figures (`Json`): What is in `metrics.json`.
        metrics (`Iterable[str]`): The figures to show.
    """
    splits = [split for split in SPLITS if split in figures]
    model = folder / PLACES["trained model"]
    predict = shlex.join(["mona-peft", "predict", "--model", str(model), "--images"])
    parts = [_table(figures, splits, metrics)] if splits else ["Nothing was evaluated: there is no validation split."]
    parts.append(aligned(_places(folder, splits)))
    return "\n" + "\n\n".join([*parts, f"{predict} FILE_OR_FOLDER"])


def _table(figures: Json, splits: list[str], metrics: Iterable[str]) -> str:
    rows = [["", *splits]]
    for name in dict.fromkeys([*metrics, "num_samples"]):
        values = [figures[split].get(name) for split in splits]
        if any(value is not None for value in values):
            rows.append([name, *(_shown(value) for value in values)])
    return aligned(rows)


def _shown(value: object) -> str:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def _places(folder: Path, splits: list[str]) -> list[list[str]]:
    """What is there, as rows of name and path."""
    rows = []
    for name, pattern in PLACES.items():
        files = dict.fromkeys(pattern.format(split=split) for split in splits or ("",))
        found = [str(folder / file) for file in files if (folder / file).exists()]
        if found:
            rows.append([name, " ".join(found)])
    return rows


def aligned(rows: list[list[str]]) -> str:
    """Rows of cells as text, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
