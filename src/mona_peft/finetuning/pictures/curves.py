"""Loss, learning rate and validation metrics over the run, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mona_peft.finetuning.files import Json

TIMED = {"step_seconds", "samples_per_second", "data_wait", "memory_gib"}
NOT_DRAWN = {"kind", "step", "epoch", "num_samples", "grad_norm", *TIMED}


def draw_curves(records: Sequence[Json], picture: Path) -> None:
    """Draw a panel for each metric from the records of a run.

    Args:
        records (`Sequence[Json]`): Those of `metrics.jsonl`, each with its `kind` and `step`.
        picture (`Path`): The PNG to write; none is written where there is no metric.
    """
    from matplotlib.figure import Figure

    numbers = [name for record in records for name, value in record.items() if isinstance(value, int | float)]
    names = [name for name in dict.fromkeys(numbers) if name not in NOT_DRAWN]
    if not names:
        return
    figure = Figure(figsize=(4 * len(names), 3), layout="constrained")
    for panel, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for kind in dict.fromkeys(record["kind"] for record in records):
            points = [
                (record["step"], record[name]) for record in records if record["kind"] == kind and name in record
            ]
            if points:
                panel.plot(*zip(*points, strict=True), label=kind, marker="." if len(points) < 30 else None)
        panel.set_title(name.replace("_", " "), parse_math=False)
        panel.set_xlabel("step")
        panel.legend()
    figure.savefig(picture, dpi=120)
