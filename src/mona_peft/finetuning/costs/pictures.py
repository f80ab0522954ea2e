"""The costs as pictures: bars for one setting, lines over batch, image size or model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .report import MEGABYTE
from .suite import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What is varied, as its axis says it.
AXES = {"batch_size": "batch, images", "image_size": "image side, pixels", "model": "model"}
Points = list[tuple[int | str, list[Row]]]


def adapter_share(row: Row) -> float:
    """Share of the step that the method takes beyond the floor: `(method - floor) / method`."""
    return 1 - 1 / row.step.ratio


def draw_bars(rows: Sequence[Row], title: str, path: Path) -> None:
    """Draw step time and saved activations of each method as bars, relative to the floor."""
    plt = _pyplot()
    figure, axes = plt.subplots(1, 2, figsize=(10, 1.2 + 0.4 * len(rows)), sharey=True)
    names = [row.method for row in rows]
    steps = axes[0].barh(names, [row.step.ratio for row in rows], xerr=_spread(rows), color="tab:blue", ecolor="gray")
    saved = axes[1].barh(names, [row.saved / rows[0].saved for row in rows], color="tab:green")
    axes[0].bar_label(steps, [f"{row.step.ratio:.2f}" for row in rows], padding=4)
    axes[1].bar_label(saved, [f"{row.saved / rows[0].saved:.2f}" for row in rows], padding=4)
    floor = rows[0]
    axes[0].set_xlabel(f"step time / floor ({1e3 * floor.step.median:.0f} ms); bars: quartiles")
    axes[1].set_xlabel(f"saved activations / floor ({floor.saved / MEGABYTE:.0f} MB)")
    for axis in axes:
        axis.axvline(1, color="black", linewidth=0.8)
        axis.margins(x=0.15)
    axes[0].invert_yaxis()
    _save(figure, title, path)


def _spread(rows: Sequence[Row]) -> list[list[float]]:
    """How far the quartiles are below and above the median, as shares of it, at the place of the ratio."""
    below = [row.step.ratio * (1 - row.step.low / row.step.median) for row in rows]
    return [below, [row.step.ratio * (row.step.high / row.step.median - 1) for row in rows]]


def draw_lines(series: dict[str, Points], title: str, path: Path) -> None:
    """Draw step time, saved activations and the adapters' share of the step, one column for each varied quantity.

    Args:
        series (`dict`): For each quantity that was varied its values, each with the rows measured there.
        title (`str`): Over the picture.
        path (`Path`): Where to write it.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(3, len(series), figsize=(max(7, 4.5 * len(series)), 10), squeeze=False)
    for column, (name, points) in zip(axes.T, series.items(), strict=True):
        points = sorted(points, key=lambda point: int(point[0])) if name != "model" else points
        for number, method in enumerate(row.method for row in points[0][1]):
            rows = [next(row for row in rows if row.method == method) for _, rows in points]
            _draw_method(column, [value for value, _ in points], rows, f"C{number}")
        for axis, label in zip(column, ("step, ms", "saved activations, MB", "share of the step"), strict=True):
            _finish(axis, name, [value for value, _ in points], label)
        column[2].axhline(0, color="black", linewidth=0.8)
        column[2].yaxis.set_major_formatter("{x:.0%}")
    axes[2, 0].set_ylabel("adapter's share of the step:\n(method - floor) / method")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    _save(figure, title, path)


def _draw_method(axes: Sequence[Axes], places: list[int | str], rows: list[Row], color: str) -> None:
    style: dict[str, Any] = {"color": color, "marker": "o", "markersize": 4, "label": rows[0].method}
    below = [1e3 * (row.step.median - row.step.low) for row in rows]
    above = [1e3 * (row.step.high - row.step.median) for row in rows]
    axes[0].errorbar(places, [1e3 * row.step.median for row in rows], [below, above], capsize=2, **style)
    if all(row.saved for row in rows):  # a logarithm has no place for nothing
        axes[1].plot(places, [row.saved / MEGABYTE for row in rows], **style)
    if all(row.start_up for row in rows):  # an adapter
        axes[2].plot(places, [adapter_share(row) for row in rows], **style)


def _finish(axis: Axes, name: str, places: list[int | str], label: str) -> None:
    """Name the axes; amounts and sizes are logarithmic, as they grow by factors."""
    axis.set(xlabel=AXES[name], ylabel=label)
    axis.grid(alpha=0.3, which="both")
    if name != "model":
        axis.set_xscale("log", base=2)
        axis.set_xticks(places, [str(place) for place in places])
        axis.minorticks_off()
    if label.endswith(("ms", "MB")):
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(_pyplot().matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:,g}")
        axis.tick_params(axis="y", which="minor", labelleft=False)


def _pyplot() -> ModuleType:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Figure, title: str, path: Path) -> None:
    figure.set_layout_engine("constrained")
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    _pyplot().close(figure)
