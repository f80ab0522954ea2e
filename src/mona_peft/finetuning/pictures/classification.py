"""Pictures of a classification result: confusion matrix and the worst mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mona_peft.finetuning.data.classification.dataset import ClassificationData
from mona_peft.finetuning.data.images import open_image, to_rgb

# Beyond this many classes, names and numbers would not be legible.
NAMED_CLASSES = 40
# Beyond this many, cells would be smaller than pixels, and the matrix would take gigabytes.
CONFUSION_CLASSES = 1000


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts `(classes, classes)`: row the true class, column the predicted one."""
    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def draw_confusion(counts: np.ndarray, class_names: Sequence[str], picture: Path) -> None:
    """Draw a confusion matrix, each row as shares of its class."""
    from matplotlib.figure import Figure

    size = max(4.0, min(16.0, 0.4 * len(class_names) + 2))
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure.colorbar(axes.imshow(shares, vmin=0, vmax=1, cmap="Blues"), ax=axes, label="share of the class")
    axes.set(xlabel="predicted", ylabel="true")
    if len(class_names) <= NAMED_CLASSES:
        ticks = range(len(class_names))
        axes.set_xticks(ticks, class_names, rotation=90, parse_math=False)  # a name may hold a $
        axes.set_yticks(ticks, class_names, parse_math=False)
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=color, fontsize=7)
    figure.savefig(picture, dpi=120)


def worst_mistakes(scores: torch.Tensor, labels: torch.Tensor, count: int) -> torch.Tensor:
    """Rows of the wrong predictions that give their true class the least probability, worst first.

    Args:
        scores (`torch.Tensor`): Logits `(samples, classes)`.
        labels (`torch.Tensor`): True class `(samples,)`.
        count (`int`): At most so many.
    """
    probability = scores.softmax(1).gather(1, labels[:, None])[:, 0]
    wrong = (scores.argmax(1) != labels).nonzero()[:, 0]
    return wrong[probability[wrong].argsort()][:count]


def draw_mistakes(
    data: ClassificationData, split: str, rows: torch.Tensor, scores: torch.Tensor, picture: Path
) -> None:
    """Draw images of `split` with their true class, and the predicted one with its probability."""
    from matplotlib.figure import Figure

    columns = 4
    height = max(1, -(-len(rows) // columns))
    figure = Figure(figsize=(3 * columns, 3.3 * height), layout="constrained")
    panels = figure.subplots(height, columns, squeeze=False).ravel()
    for panel in panels:
        panel.axis("off")
    for panel, row in zip(panels, rows.tolist(), strict=False):
        stored = data.splits[split][row]
        probability, predicted = scores[row].softmax(0).max(0)
        panel.imshow(to_rgb(open_image(stored[data.image_column], row)))
        true = data.class_names[int(stored[data.label_column])]
        title = f"{true}\ntaken for {data.class_names[int(predicted)]} ({probability:.0%})"
        panel.set_title(title, fontsize=9, parse_math=False)
    figure.savefig(picture, dpi=100)
