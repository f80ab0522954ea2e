"""The benchmark's results as a table and as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .suite import Row

MEGABYTE = 1e6


def table(rows: Sequence[Row]) -> str:
    """Write the results as a Markdown table; ratios are to the first row."""
    head = [
        "method",
        "step, ms (quartiles)",
        "to floor",
        "saved, MB",
        "to floor",
        "peak, MB",
        "inference, ms",
        "to base",
        "inject / save / load, s",
    ]
    lines = [head, ["---"] * len(head)] + [_cells(row, rows[0]) for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(row: Row, floor: Row) -> list[str]:
    step, inference, start = row.step, row.inference, row.start_up
    return [
        row.method,
        f"{1e3 * step.median:.0f} ({1e3 * step.low:.0f}-{1e3 * step.high:.0f})",
        f"{step.ratio:.2f}",
        f"{row.saved / MEGABYTE:.0f}",
        f"{row.saved / floor.saved:.2f}",
        "" if row.peak is None else f"{row.peak / MEGABYTE:.0f}",
        "" if inference is None else f"{1e3 * inference.median:.0f}",
        "" if inference is None else f"{inference.ratio:.2f}",
        "" if start is None else f"{start.inject:.2f} / {start.save:.2f} / {start.load:.2f}",
    ]


def draw_bars(rows: Sequence[Row], title: str, path: Path) -> None:
    """Draw step time and saved activations of each method as bars, relative to the floor."""
    plt = _pyplot()
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), sharey=True)
    names = [row.method for row in rows]
    axes[0].barh(names, [row.step.ratio for row in rows], xerr=_spread(rows), color="tab:blue")
    axes[1].barh(names, [row.saved / rows[0].saved for row in rows], color="tab:green")
    for axis, label in zip(axes, ("step time / floor", "saved activations / floor"), strict=True):
        axis.set_xlabel(label)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.bar_label(axis.containers[-1], fmt="%.2f", padding=3)
    axes[0].invert_yaxis()
    _save(figure, title, path)


def _spread(rows: Sequence[Row]) -> list[list[float]]:
    """How far the quartiles are below and above the median, in units of the floor's median."""
    floor = rows[0].step.median
    below = [(row.step.median - row.step.low) / floor for row in rows]
    return [below, [(row.step.high - row.step.median) / floor for row in rows]]


def draw_lines(series: dict[str, list[tuple[Any, list[Row]]]], title: str, path: Path) -> None:
    """Draw step time and saved activations against batch, image size or model, one pair of pictures for each.

    Args:
        series (`dict`): For each quantity that was varied its values, each with the rows measured there.
        title (`str`): Over the picture.
        path (`Path`): Where to write it.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(2, len(series), figsize=(4.5 * len(series), 7), squeeze=False)
    for column, (name, points) in enumerate(series.items()):
        places = [str(value) for value, _ in points]
        for method in [row.method for row in points[0][1]]:
            rows = [(next(r for r in rows if r.method == method), rows[0]) for _, rows in points]
            axes[0, column].plot(places, [row.step.ratio for row, _ in rows], marker="o", label=method)
            axes[1, column].plot(places, [row.saved / MEGABYTE for row, _ in rows], marker="o", label=method)
        axes[0, column].set(xlabel=name, ylabel="step time / floor")
        axes[1, column].set(xlabel=name, ylabel="saved activations, MB", yscale="log")
    axes[0, 0].legend()
    _save(figure, title, path)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, title: str, path: Path) -> None:
    figure.suptitle(title)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    _pyplot().close(figure)
