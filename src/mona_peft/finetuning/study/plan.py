"""What a study runs: variants, a grid of learning rates, and seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
        ladder (`tuple[float, ...]`): Rates from low to high. A grid whose best rate is at its end grows by the next
            of them; none for grids that stay as they are.
    """

    variants: tuple[Variant, ...]
    learning_rates: tuple[float, ...]
    seeds: int
    search_seeds: int | None = None
    rates: dict[str, tuple[float, ...]] = field(default_factory=dict)
    ladder: tuple[float, ...] = ()

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

    def grid(self, variant: Variant) -> tuple[float, ...]:
        """The learning rates that the search for the variant's begins with."""
        return self.rates.get(variant.label, self.learning_rates)

    def search(self, variant: Variant, rates: Iterable[float]) -> list[RunKey]:
        """The runs that choose between learning rates."""
        return [RunKey(variant.label, rate, seed) for rate in rates for seed in range(self.searched)]

    def beyond(self, rates: Sequence[float], best: float) -> float | None:
        """The rate of the ladder to try next; none if the best lies between others, or the ladder ends."""
        above = [rate for rate in self.ladder if best == max(rates) < rate]
        below = [rate for rate in self.ladder if best == min(rates) > rate]
        return above[0] if above else below[-1] if below else None

    def rest(self, variant: Variant, rate: float) -> list[RunKey]:
        """The runs at the chosen learning rate that the grid did not have."""
        return [RunKey(variant.label, rate, seed) for seed in range(self.searched, self.seeds)]
