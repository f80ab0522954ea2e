"""The choice of learning rates, by the validation split alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean

from .records import Record

#: What learning rates and best weights may be chosen on.
CHOICES = ("validation", "test")


def choose_rate(records: Iterable[Record], seeds: int | None = None) -> float:
    """The learning rate with the best mean validation metric; of equals the lowest.

    Args:
        records (`Iterable[Record]`): Of one variant.
        seeds (`int`, *optional*): Only look at this many seeds, those that every rate was tried with.

    Raises:
        ValueError: If there is no record.
    """
    found: dict[float, list[float]] = {}
    for record in records:
        if seeds is None or record.seed < seeds:
            found.setdefault(record.learning_rate, []).append(record.validation)
    if not found:
        raise ValueError("No run to choose a learning rate from; run the study first.")
    return max(sorted(found), key=lambda rate: mean(found[rate]))


def chosen_records(records: Sequence[Record], seeds: int | None = None) -> dict[str, list[Record]]:
    """By label, the records at the chosen learning rate in the order of seeds."""
    chosen: dict[str, list[Record]] = {}
    for label in dict.fromkeys(record.label for record in records):
        own = [record for record in records if record.label == label]
        rate = choose_rate(own, seeds)
        chosen[label] = sorted((r for r in own if r.learning_rate == rate), key=lambda r: r.seed)
    return chosen
