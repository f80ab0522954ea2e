"""What the measurements are written to: a table, JSON and a picture; over several values, or by operation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from .config import CostsConfig, OutputConfig
from .pictures import Points, draw_bars, draw_lines
from .profiling import run_profile
from .report import NOTE, table
from .suite import as_json, describe_machine, measure_costs


def measure(config: CostsConfig, output: OutputConfig) -> Mapping[str, object]:
    """Measure what is asked for and write it.

    Returns:
        `Mapping[str, object]`: What is in the JSON file, or the tables of a profile.
    """
    folder = Path(output.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if output.profile:
        return run_profiling(config, folder)
    results = run_scaling(config, output, folder) if output.varied else run_once(config, folder)
    (folder / ("scaling.json" if output.varied else "benchmark.json")).write_text(json.dumps(results, indent=2) + "\n")
    return results


def run_once(config: CostsConfig, folder: Path) -> dict[str, object]:
    """Measure, print a table, write JSON and a picture."""
    rows = measure_costs(config)
    print(f"{config.describe()}\n\n{table(rows)}\n\n{NOTE}")
    draw_bars(rows, config.describe(), folder / "benchmark.png")
    return as_json(config, rows)


def run_scaling(config: CostsConfig, output: OutputConfig, folder: Path) -> Mapping[str, object]:
    """Measure at every value of each quantity that varies, write JSON and a picture."""
    series: dict[str, Points] = {}
    results: dict[str, list[dict[str, object]]] = {}
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


def run_profiling(config: CostsConfig, folder: Path) -> Mapping[str, object]:
    """Profile, print a table of operations for each method, and write them as text."""
    tables = run_profile(config)
    text = "\n\n".join(f"{method}: {config.describe()}\n\n{lines}" for method, lines in tables.items())
    print(text)
    (folder / "profile.txt").write_text(text + "\n", encoding="utf-8")
    return tables
