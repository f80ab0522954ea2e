"""What serving many adapters costs on one base model, against as many whole models; written as JSON.

python scripts/benchmark_serving.py --output results/serving.json
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from mona_peft.finetuning.command_line import parse_arguments
from mona_peft.finetuning.costs.serving import ServingConfig, measure_serving
from mona_peft.finetuning.environment import made_by
from mona_peft.finetuning.files import write_json
from mona_peft.finetuning.settings import Settings, option


@dataclass
class OutputConfig(Settings):
    """Where the figures go."""

    output: str | None = option(None, "JSON file to write.")


def main() -> None:
    """Parse the command line, measure, print and write."""
    config, output = parse_arguments((ServingConfig, OutputConfig))
    with tempfile.TemporaryDirectory() as folder:
        rows = measure_serving(config, Path(folder))
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    if output.output:
        made = made_by(("--output",))
        write_json(Path(output.output), {"settings": asdict(config), **made, "rows": rows})


if __name__ == "__main__":
    main()
