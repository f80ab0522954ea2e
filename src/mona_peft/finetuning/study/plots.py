"""The figures of a study."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from cycler import cycler
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .records import Record
from .table import Row

MEBIBYTE = 2**20


def _figure(width: float = 7.0, height: float = 4.5) -> tuple[Figure, Axes]:
    """A figure apart from pyplot, so that nothing global changes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    # Ten colours, then the same ones again with broken lines.
    axes.set_prop_cycle(cycler(linestyle=["-", "--"]) * rcParams["axes.prop_cycle"])
    return figure, axes


def _scatter(rows: Sequence[Row], value: Callable[[Row], float], x_label: str, metric_name: str) -> Figure:
    """Figure of the test split over some cost, intervals as bars."""
    figure, axes = _figure()
    for index, row in enumerate(rows):
        x, colour = value(row), f"C{index % 10}"
        below, above = 100 * (row.mean - row.low), 100 * (row.high - row.mean)
        axes.errorbar([x], [100 * row.mean], yerr=[[below], [above]], fmt="o", color=colour, capsize=3)
        axes.annotate(row.label, (x, 100 * row.mean), xytext=(6, 4), textcoords="offset points", fontsize=9)
    axes.set(xlabel=x_label, ylabel=f"{metric_name}, %")
    axes.grid(alpha=0.3)
    return figure


def plot_parameters(rows: Sequence[Row], metric_name: str) -> Figure:
    """The test metric against the parameters trained in the backbone, on a logarithmic axis that holds zero."""
    figure = _scatter(rows, lambda row: row.backbone_trainable, "parameters trained in the backbone", metric_name)
    figure.axes[0].set_xscale("symlog", linthresh=1000)
    return figure


def plot_seconds(rows: Sequence[Row], metric_name: str) -> Figure:
    """The test metric against training time."""
    return _scatter(rows, lambda row: row.seconds, "seconds a run", metric_name)


def plot_memory(rows: Sequence[Row], metric_name: str) -> Figure:
    """The test metric against what training holds besides the weights."""
    label = "activations, gradients and optimiser states, MiB"
    return _scatter(rows, lambda row: row.memory_bytes / MEBIBYTE, label, metric_name)


def plot_losses(records: dict[str, list[Record]], smoothing: float = 0.9) -> Figure:
    """The loss curves of the runs at the chosen rates; see [`plot_loss_curves`].

    Args:
        records (`dict[str, list[Record]]`): By label, as [`chosen_records`] gives them.
        smoothing (`float`): Share of the smoothed value that each step keeps.
    """
    return plot_loss_curves(
        {label: [record.losses for record in group] for label, group in records.items()}, smoothing
    )


def plot_loss_curves(curves: dict[str, list[list[list[float]]]], smoothing: float = 0.9) -> Figure:
    """Training loss over steps, the mean over seeds, smoothed exponentially.

    Args:
        curves (`dict[str, list[list[list[float]]]]`): By label, for each seed the pairs of step and loss.
        smoothing (`float`): Share of the smoothed value that each step keeps.
    """
    figure, axes = _figure()
    for label, runs in curves.items():
        runs = [run for run in runs if run]
        if runs:
            length = min(len(run) for run in runs)
            values = np.mean([[loss for _, loss in run[:length]] for run in runs], axis=0)
            axes.plot([step for step, _ in runs[0][:length]], smooth(values, smoothing), label=label)
    axes.set(xlabel="step", ylabel="training loss", yscale="log")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=8, ncols=2)
    return figure


def plot_rates(records: Sequence[Record], metric_name: str) -> Figure:
    """The validation metric over the learning rates tried, the mean over seeds: how much a wrong rate costs.

    Args:
        records (`Sequence[Record]`): All of a study.
        metric_name (`str`): What to call the metric.
    """
    figure, axes = _figure()
    for label in dict.fromkeys(record.label for record in records):
        found: dict[float, list[float]] = {}
        for record in records:
            if record.label == label:
                found.setdefault(record.learning_rate, []).append(100 * record.validation)
        axes.plot(sorted(found), [np.mean(found[rate]) for rate in sorted(found)], "o-", label=label)
    axes.set(xlabel="learning rate", ylabel=f"validation {metric_name}, %", xscale="log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2)
    return figure


def plot_curves(chosen: dict[str, list[Record]], metric_name: str) -> Figure:
    """The validation metric over training time, the mean over seeds; all steps of a run take the same time.

    With LoRA among them, a line shows its final metric, and the legend when each method reaches that.

    Args:
        chosen (`dict[str, list[Record]]`): By label, as [`chosen_records`] gives them.
        metric_name (`str`): What to call the metric.
    """
    figure, axes = _figure()
    curves = {label: curve for label, group in chosen.items() if (curve := _curve(group)) is not None}
    lora = next((label for label in curves if chosen[label][0].method == "lora"), None)
    target = None if lora is None else curves[lora][1][-1]
    for label, (seconds, values) in curves.items():
        reached = "" if target is None else f", {reaching(seconds, values, target)}"
        axes.plot(seconds, 100 * values, marker="o", label=label + reached)
    if target is not None:
        axes.axhline(100 * target, color="black", linestyle=":", linewidth=1, label=f"{lora} at its end")
    axes.set(xlabel="seconds of training", ylabel=f"validation {metric_name}, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=2)
    return figure


def _curve(group: Sequence[Record]) -> tuple[np.ndarray, np.ndarray] | None:
    """Seconds and figures of the evaluations, means over the runs."""
    runs = [record for record in group if record.validations]
    if not runs:
        return None
    length = min(len(run.validations) for run in runs)
    values = np.mean([[value for _, value in run.validations[:length]] for run in runs], axis=0)
    return np.mean([_times(run)[:length] for run in runs], axis=0), values


def reaching(seconds: np.ndarray, values: np.ndarray, target: float) -> str:
    """When a curve reaches a value, in words; straight between two evaluations.

    Args:
        seconds (`np.ndarray`): `(n,)`, of the evaluations.
        values (`np.ndarray`): `(n,)`, their metrics.
        target (`float`): The value.
    """
    reached = values >= target
    if not reached.any():
        return "not reached"
    first = int(reached.argmax())
    if first == 0:
        return f"by {seconds[0]:.0f} s"
    share = (target - values[first - 1]) / (values[first] - values[first - 1])
    return f"{seconds[first - 1] + share * (seconds[first] - seconds[first - 1]):.0f} s"


def _times(run: Record) -> list[float]:
    """When each evaluation of a run was, in seconds."""
    last = run.validations[-1][0]
    return [run.seconds * step / last for step, _ in run.validations]


def smooth(values: np.ndarray, keep: float) -> np.ndarray:
    """Exponential moving average without the bias of its start (Kingma and Ba 2015, section 3)."""
    average, result = 0.0, []
    for count, value in enumerate(values, start=1):
        average = keep * average + (1 - keep) * value
        result.append(average / (1 - keep**count))
    return np.asarray(result)


def plot_groups(rows: Sequence[Row], metric_name: str) -> Figure:
    """The settings of an ablation, one line each, by group."""
    figure, axes = _figure(height=1.0 + 0.32 * len(rows))
    groups = list(dict.fromkeys(row.group for row in rows))
    for place, row in enumerate(reversed(rows)):
        below, above = 100 * (row.mean - row.low), 100 * (row.high - row.mean)
        colour = f"C{groups.index(row.group) % 10}"
        axes.errorbar([100 * row.mean], [place], xerr=[[below], [above]], fmt="o", color=colour, capsize=3)
    axes.set_yticks(range(len(rows)), [row.label for row in reversed(rows)])
    axes.set(xlabel=f"{metric_name}, %")
    axes.grid(alpha=0.3)
    return figure
