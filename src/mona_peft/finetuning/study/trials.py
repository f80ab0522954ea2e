"""The trials of a search as a table, on the terminal and in a file."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from mona_peft.finetuning.files import replacing
from mona_peft.finetuning.training.closing import aligned

if TYPE_CHECKING:
    import optuna

TABLE = "trials.csv"
#: How a trial ended, by the name of Optuna's state; what is noted of it says more.
ENDS = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "stopped", "RUNNING": "running", "WAITING": "waiting"}


def write_trials(study: optuna.Study, metric: str, folder: Path) -> str:
    """Write the trials to `trials.csv`, and give them as text.

    Args:
        study (`Study`): Of Optuna.
        metric (`str`): What was measured.
        folder (`Path`): Where to.
    """
    trials = study.get_trials(deepcopy=False)
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    rows: list[list[object]] = [["trial", *names, f"validation {metric}", "seconds", "end"]]
    for trial in trials:
        seconds = trial.user_attrs.get("seconds", "")
        end = trial.user_attrs.get("end", ENDS[trial.state.name])
        rows.append([trial.number, *(trial.params.get(name, "") for name in names), _value(trial), seconds, end])
    with replacing(folder / TABLE) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return aligned([[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows])


def _value(trial: optuna.trial.FrozenTrial) -> float | str:
    """The best value of a trial: at its end, or when it was pruned."""
    if trial.value is not None:
        return trial.value
    reported = list(trial.intermediate_values.values())
    return reported[-1] if reported else ""


def any_finished(study: optuna.Study) -> bool:
    """Whether there is a best trial: one that was neither pruned nor stopped."""
    return any(trial.state.name == "COMPLETE" for trial in study.get_trials(deepcopy=False))


def describe_best(study: optuna.Study, metric: str) -> str:
    """Which setting is trained now, and why."""
    if not any_finished(study):
        return "No trial was finished in that time: the settings stay as they were. Give --tune more minutes."
    best = study.best_trial
    listed = ", ".join(f"{name} {value:.4g}" for name, value in best.params.items())
    return (
        f"Best is trial {best.number}, {metric} {best.value:.4f} on the validation split: {listed}. It is trained now."
    )
