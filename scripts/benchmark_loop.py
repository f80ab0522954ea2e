"""What the training loop costs over a bare PyTorch loop on the same work, and what loading images costs, in one run.

python scripts/benchmark_loop.py --num_workers 2 --output results/benchmark/loop.json
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from mona_peft.finetuning.command_line import parse_arguments
from mona_peft.finetuning.costs.loop import compare_loops, loop_sentence
from mona_peft.finetuning.environment import made_by
from mona_peft.finetuning.files import write_json
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
    output: str | None = option(None, "JSON file to write; none if unset.")


def main() -> None:
    """Parse the command line, measure, print and write."""
    (config,) = parse_arguments((LoopConfig,))
    sizes = (config.batch_size, config.image_size, config.num_workers)
    clock = time.process_time if config.cpu_time else time.perf_counter
    seconds = compare_loops(config.steps, config.rounds, *sizes, clock)
    results = {
        **made_by(("--output",)),
        "config": asdict(config),
        "seconds": seconds,
    }
    for name, value in seconds.items():
        print(f"{name:<26}{value * 1000:9.2f} ms a step")
    print(loop_sentence(results))
    if config.output:
        write_json(Path(config.output), results)


if __name__ == "__main__":
    main()
