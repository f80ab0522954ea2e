"""Settings of the search for settings."""

from __future__ import annotations

from dataclasses import dataclass

from mona_peft.finetuning.settings import Settings, option


@dataclass
class TuneConfig(Settings):
    """Search."""

    tune: float | None = option(
        None,
        "First search rate, bottleneck (or rank) and dropout for this many minutes, by Optuna.",
        above=0,
    )
    tune_trials: int | None = option(None, "Try at most this many settings, however much time is left.", least=1)

    def __post_init__(self) -> None:
        """Check what can be checked without data or model."""
        super().__post_init__()
        if self.tune_trials and not self.tune:
            raise ValueError(f"tune_trials is {self.tune_trials}, but nothing is searched: give --tune MINUTES too.")
