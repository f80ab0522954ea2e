"""Measure what each method costs in time and memory, on one task, model and batch.

python scripts/benchmark.py --model swin-t --image_size 224 --batch_size 8 --threads 2
python scripts/benchmark.py --task semantic_segmentation --image_size 512 --batch_size 2
python scripts/benchmark.py --scale_batch_size 2 4 8 16 --scale_image_size 224 384 512 --scale_model swin-t swin-s
python scripts/benchmark.py --autocast bfloat16 --processes 2 --methods lora mona-plain mona
python scripts/benchmark.py --profile --methods mona-plain mona
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mona_peft.finetuning.costs.config import CostsConfig
from mona_peft.finetuning.costs.pictures import draw_bars, draw_lines
from mona_peft.finetuning.costs.profiling import run_profile
from mona_peft.finetuning.costs.report import NOTE, table
from mona_peft.finetuning.costs.suite import Row, as_json, describe_machine, measure_costs
from mona_peft.finetuning.settings import Settings, option, parse_arguments


@dataclass
class OutputConfig(Settings):
    """Where the results go, and what is varied."""

    output_dir: str = option("outputs/benchmark", "Where results and pictures are written.")
    profile: bool = option(False, "Whether to tell where the time of a step goes, by operation, instead of timing it.")
    scale_batch_size: list[int] = option([], "Batch sizes to plot the costs against, instead of one table.", least=1)
    scale_image_size: list[int] = option([], "Image sizes to plot the costs against.", least=1)
    scale_model: list[str] = option([], "Models to plot the costs against.")

    def __post_init__(self) -> None:
        if self.profile and self.varied:
            raise ValueError(
                f"--profile takes one setting, not several {', '.join(self.varied)}: leave --scale_* out."
            )

    @property
    def varied(self) -> list[str]:
        """Names of the settings with several values."""
        return [name for name in ("batch_size", "image_size", "model") if getattr(self, f"scale_{name}")]


def run_once(config: CostsConfig, folder: Path) -> dict[str, Any]:
    """Measure, print a table, write JSON and a picture."""
    rows = measure_costs(config)
    print(f"{config.describe()}\n\n{table(rows)}\n\n{NOTE}")
    draw_bars(rows, config.describe(), folder / "benchmark.png")
    return as_json(config, rows)


def run_scaling(config: CostsConfig, output: OutputConfig, folder: Path) -> dict[str, Any]:
    """Measure at every value of each quantity that varies, write JSON and a picture."""
    series: dict[str, list[tuple[Any, list[Row]]]] = {}
    results: dict[str, Any] = {}
    for name in output.varied:
        for value in getattr(output, f"scale_{name}"):
            changed = replace(config, **{name: value})
            rows = measure_costs(changed)
            print(f"\n{changed.describe()}\n\n{table(rows)}", flush=True)
            series.setdefault(name, []).append((value, rows))
            results.setdefault(name, []).append(as_json(changed, rows))
    print(f"\n{NOTE}")
    machine = describe_machine(config)
    title = f"{config.describe()} where not varied\n{machine.get('gpu', machine['cpu'])}, {machine['threads']} threads"
    draw_lines(series, title, folder / "scaling.png")
    return results


def run_profiling(config: CostsConfig, folder: Path) -> dict[str, Any]:
    """Profile, print a table of operations for each method, and write them as text."""
    tables = run_profile(config)
    text = "\n\n".join(f"{method}: {config.describe()}\n\n{lines}" for method, lines in tables.items())
    print(text)
    (folder / "profile.txt").write_text(text + "\n", encoding="utf-8")
    return tables


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Parse the command line and run."""
    config, output = parse_arguments((CostsConfig, OutputConfig), arguments)
    folder = Path(output.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if output.profile:
        return run_profiling(config, folder)
    results = run_scaling(config, output, folder) if output.varied else run_once(config, folder)
    (folder / ("scaling.json" if output.varied else "benchmark.json")).write_text(json.dumps(results, indent=2) + "\n")
    return results


if __name__ == "__main__":
    main()
