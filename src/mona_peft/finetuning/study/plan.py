"""What a study runs: variants, a grid of learning rates, and seeds."""

from __future__ import annotations

from dataclasses import dataclass, field

from .records import RunKey
from .variants import Variant, check_labels


@dataclass(frozen=True)
class Plan:
    """What to run.

    Args:
        variants (`tuple[Variant, ...]`): The lines of the table.
        learning_rates (`tuple[float, ...]`): The grid, the same for every variant.
        seeds (`int`): Runs of each variant at its chosen rate, seeds 0 and up.
        search_seeds (`int`, *optional*): Runs at each rate of the grid; all seeds if left out.
        rates (`dict[str, tuple[float, ...]]`): Grids of single variants, by label, in place of the common one.
    """

    variants: tuple[Variant, ...]
    learning_rates: tuple[float, ...]
    seeds: int
    search_seeds: int | None = None
    rates: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_labels(self.variants)
        if not self.variants or not self.learning_rates or self.seeds < 1:
            raise ValueError("A study needs at least one variant, one learning rate and one seed.")
        if self.search_seeds is not None and not 1 <= self.search_seeds <= self.seeds:
            raise ValueError(f"search_seeds is {self.search_seeds}; it must be from 1 to seeds ({self.seeds}).")

    @property
    def searched(self) -> int:
        """How many seeds every rate of the grid is run with."""
        return self.seeds if self.search_seeds is None else self.search_seeds

    def grid(self, variant: Variant) -> list[RunKey]:
        """The runs that choose the variant's learning rate."""
        rates = self.rates.get(variant.label, self.learning_rates)
        return [RunKey(variant.label, rate, seed) for rate in rates for seed in range(self.searched)]

    def rest(self, variant: Variant, rate: float) -> list[RunKey]:
        """The runs at the chosen learning rate that the grid did not have."""
        return [RunKey(variant.label, rate, seed) for seed in range(self.searched, self.seeds)]
