"""The costs as a table."""

from __future__ import annotations

from collections.abc import Sequence

from mona_peft.finetuning import markdown
from mona_peft.finetuning.files import Json

from .config import FLOOR, CostsConfig
from .suite import Row, from_json

MEGABYTE = 1e6
NOTE = (
    "floor: the gradient goes back to the patch embedding's bias, which trains; in dense tasks neck and heads train "
    "too, as with every method. fixed: the head alone trains."
)


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
    cells = [_cells(row, rows[0]) for row in rows]
    if any(row.launches is not None for row in rows):
        head.append("launches")
        cells = [[*line, str(row.launches or "")] for line, row in zip(cells, rows, strict=True)]
    lines = [head, ["---"] * len(head), *cells]
    return markdown.table(lines)


def summary(results: Json) -> str:
    """The table of a file of results, with the machine and the command that made it."""
    config, machine = CostsConfig(**results["config"]), results["machine"]
    made = f"made by `{results['command']}`" if results.get("command") else "made before the command was recorded"
    place = f"{machine.get('gpu', machine['cpu'])}, {machine['threads']} threads, torch {machine['torch']}"
    return f"{config.describe()}; {place}; {made}.\n\n{table(from_json(results))}\n\n{NOTE}"


def sentence(results: Json) -> str:
    """The costs of adapters and full fine-tuning as one sentence."""
    rows = {row.method: row for row in from_json(results)}
    floor, named = rows[FLOOR], {"mona": "Mona", "lora": "LoRA", "full": "full fine-tuning"}
    costs = []
    for name, title in named.items():
        memory = rows[name].saved / floor.saved
        costs.append(f"{title} takes {rows[name].step.ratio:.2f} of that time and {memory:.2f} of that memory")
    return (
        "The least a training step takes in time and activations is backpropagation through the frozen backbone with "
        f"no adapter. {'; '.join(costs)} ({CostsConfig(**results['config']).describe()})."
    )


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
