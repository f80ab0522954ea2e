"""Measure what each method costs in time and memory, on one backbone and batch.

python scripts/benchmark.py --model swin-t --image_size 224 --batch_size 8 --threads 2
python scripts/benchmark.py --scale_batch_size 2 4 8 16 --scale_image_size 224 384 512 --scale_model swin-t swin-s
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mona_peft.benchmarking.report import draw_bars, draw_lines, table
from mona_peft.benchmarking.suite import BenchmarkConfig, Row, as_json, describe_machine, run_benchmark
from mona_peft.options import option
from mona_peft.training.arguments import parse_arguments


@dataclass
class OutputConfig:
    """Where the results go, and what is varied."""

    output_dir: str = option("outputs/benchmark", "Where results and pictures are written.")
    scale_batch_size: list[int] = option([], "Batch sizes to plot the costs against, instead of one table.")
    scale_image_size: list[int] = option([], "Image sizes to plot the costs against.")
    scale_model: list[str] = option([], "Models to plot the costs against.")


def run_once(config: BenchmarkConfig, folder: Path) -> dict[str, Any]:
    """Measure, print a table, write JSON and a picture."""
    rows = run_benchmark(config)
    print(table(rows))
    title = f"{config.model}, {config.image_size} px, batch {config.batch_size}, {config.dtype}, {config.device}"
    draw_bars(rows, title, folder / "benchmark.png")
    return as_json(config, rows)


def run_scaling(config: BenchmarkConfig, output: OutputConfig, folder: Path) -> dict[str, Any]:
    """Measure at every value of each quantity that varies, write JSON and a picture."""
    series: dict[str, list[tuple[Any, list[Row]]]] = {}
    results: dict[str, Any] = {}
    for name in ("batch_size", "image_size", "model"):
        for value in getattr(output, f"scale_{name}"):
            changed = replace(config, **{name: value})
            rows = run_benchmark(changed)
            print(f"\n{name} {value}\n{table(rows)}", flush=True)
            series.setdefault(name, []).append((value, rows))
            results.setdefault(name, []).append(as_json(changed, rows))
    machine = describe_machine(config.device)
    draw_lines(series, f"{machine.get('gpu', machine['cpu'])}, {machine['threads']} threads", folder / "scaling.png")
    return results


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Parse the command line and run."""
    config, output = parse_arguments((BenchmarkConfig, OutputConfig), arguments)
    folder = Path(output.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    varied = output.scale_batch_size or output.scale_image_size or output.scale_model
    results = run_scaling(config, output, folder) if varied else run_once(config, folder)
    (folder / ("scaling.json" if varied else "benchmark.json")).write_text(json.dumps(results, indent=2) + "\n")
    return results


if __name__ == "__main__":
    main()
