"""A plan of memory as a table."""

from __future__ import annotations

from collections.abc import Sequence

from mona_peft.finetuning import markdown

from .plan import PlanRow
from .plan_config import PlanConfig

MEGABYTE = 1e6
HEAD = (
    "method",
    "precision",
    "trained",
    "weights, MB",
    "gradients, MB",
    "AdamW, MB",
    "saved an image, MB",
    "peak an image, MB",
    "largest batch",
    "with checkpointing: saved an image, MB",
    "largest batch",
)
NOTE = (
    "A step holds weights, AdamW's states and a peak that grows with the batch: saved activations, gradients and what "
    "operations need in passing. Weights and activations of the frozen backbone are held by every method through "
    "which gradients go back: an adapter saves gradients and AdamW's states, checkpointing saves activations. Tensors "
    "alone are counted; leave room for the driver and the allocator."
)
OBJECTS_NOTE = (
    "Every image is taken to have as many objects as are said above. Cascade Mask R-CNN is taken to sample as many "
    "regions and positives of it as its settings allow, which is the most a step can hold: the first ones hold less."
)


def plan_table(config: PlanConfig, rows: Sequence[PlanRow]) -> str:
    """Write a plan as a Markdown table, with what it is of."""
    task = "" if config.task == "classification" else f", {config.task.replace('_', ' ')}"
    found = config.task in ("detection", "instance_segmentation")
    task += f", {config.objects} objects an image" if found else ""
    title = f"{config.model}{task}, {config.image_size} px, {config.memory}"
    lines = [HEAD, ["---"] * len(HEAD), *(_cells(row) for row in rows)]
    return "\n\n".join([title, markdown.table(lines), NOTE, *([OBJECTS_NOTE] if found else [])])


def _cells(row: PlanRow) -> list[str]:
    sizes = (row.weights, row.gradients, row.states, row.saved, row.peak[0][1])
    return [
        *(row.method, row.precision, f"{row.trainable:,}"),
        *(f"{size / MEGABYTE:.1f}" for size in sizes),
        *(str(row.batch), f"{row.saved_checkpointed / MEGABYTE:.1f}", str(row.batch_checkpointed)),
    ]
