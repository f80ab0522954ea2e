"""What the training loop costs over a bare PyTorch loop on the same work, measured in one run.

python scripts/benchmark_loop.py --steps 60
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from mona_peft.finetuning.command_line import parse_arguments
from mona_peft.finetuning.costs.loop import compare_loops
from mona_peft.finetuning.settings import Settings, option


@dataclass
class LoopConfig(Settings):
    """What to measure."""

    steps: int = option(40, "Steps of each loop.", least=1)
    rounds: int = option(5, "How often the loops take turns; the best round of each counts.", least=1)
    batch_size: int = option(8, "Images a step.", least=1)
    image_size: int = option(224, "Side of the images, in pixels; a multiple of 224 for a Swin-T.", least=1)
    num_workers: int = option(0, "Loading processes.", least=0)
    cpu_time: bool = option(False, "Count CPU time of this process: for a machine that others use too.")


def main() -> None:
    """Parse the command line and measure."""
    (config,) = parse_arguments((LoopConfig,))
    sizes = (config.batch_size, config.image_size, config.num_workers)
    clock = time.process_time if config.cpu_time else time.perf_counter
    results = compare_loops(config.steps, config.rounds, *sizes, clock)
    for name, seconds in results.items():
        print(f"{name:<12}{seconds * 1000:9.2f} ms a step")
    print(f"The loop costs {results['this loop'] / results['bare loop'] - 1:+.1%}")


if __name__ == "__main__":
    main()
