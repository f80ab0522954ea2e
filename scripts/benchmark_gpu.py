"""Measure on a GPU all that it can tell of the costs, in one go; `make benchmark-gpu` also puts it into the page.

python scripts/benchmark_gpu.py --device cuda
"""

from __future__ import annotations

from mona_peft.finetuning.command_line import parse_arguments
from mona_peft.finetuning.costs.gpu import GpuConfig, measure_gpu


def main() -> None:
    """Parse the command line and measure."""
    measure_gpu(*parse_arguments((GpuConfig,)))


if __name__ == "__main__":
    main()
