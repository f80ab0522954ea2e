"""What the training loop costs over a bare PyTorch loop on the same work, measured in one run.

python scripts/benchmark_loop.py --steps 60
"""

from __future__ import annotations

from dataclasses import dataclass

from mona_peft.options import option
from mona_peft.tasks.loop_benchmark import compare_loops
from mona_peft.training.arguments import parse_arguments


@dataclass
class BenchmarkConfig:
    """What to measure."""

    steps: int = option(40, "Steps of each loop.")
    rounds: int = option(5, "How often the loops take turns; the best round of each counts.")
    batch_size: int = option(8, "Images a step.")
    image_size: int = option(224, "Side of the images, in pixels; a multiple of 224 for a Swin-T.")
    num_workers: int = option(0, "Loading processes.")


def main() -> None:
    """Parse the command line and measure."""
    (config,) = parse_arguments((BenchmarkConfig,))
    sizes = (config.batch_size, config.image_size, config.num_workers)
    for name, seconds in compare_loops(config.steps, config.rounds, *sizes).items():
        print(f"{name:<12}{seconds * 1000:9.2f} ms a step")


if __name__ == "__main__":
    main()
