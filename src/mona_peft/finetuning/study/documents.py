"""The tables of documents, made from the files under `results/`.

A document holds a table between two markers, such as `<!-- demo:begin -->` and `<!-- demo:end -->`; [`fill`] puts into
each pair of markers what the files say now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from mona_peft.finetuning.costs.gpu import FILE as GPU_FILE
from mona_peft.finetuning.costs.gpu import gpu_summary
from mona_peft.finetuning.costs.loop import loop_sentence
from mona_peft.finetuning.costs.report import sentence as costs_sentence
from mona_peft.finetuning.costs.report import summary as costs_summary
from mona_peft.finetuning.costs.serving import serving_summary
from mona_peft.finetuning.files import Json, read_json
from mona_peft.finetuning.study.testbeds.recipes import METRIC_NAMES
from mona_peft.finetuning.study.testbeds.scene_models import MODELS

from .demo import METHODS
from .records import RESULTS_FILE
from .report import Results, markers, read_block, replace_block
from .statistics import spread

#: Studies by the markers of their table.
STUDIES = {
    "results": "digits",
    "results-clipart": "clipart",
    "results-clipart-10": "clipart-10",
    "results-clipart-10-ablations": "clipart-10-ablations",
    "results-emoji": "emoji",
    "results-emoji-10": "emoji-10",
    "results-emoji-10-ablations": "emoji-10-ablations",
    "results-cutouts-semantic_segmentation": "cutouts-semantic_segmentation",
    "results-cutouts-detection": "cutouts-detection",
    "results-ablations": "digits-ablations",
    "results-official": "digits-official",
    "results-semantic_segmentation": "scenes-semantic_segmentation",
    "results-head-norms": "scenes-head-norms",
}
TITLES = {"mona": "Mona", "fixed": "head only", "full": "full fine-tuning"}
#: Every measurement of costs, by the folder it is in, and the one that the README tells in a sentence.
COSTS = "benchmark/*/benchmark.json"
USUAL_COSTS = "benchmark/swin-t/benchmark.json"
AGAIN = "It holds results; make it again with the command that the document names."


def tables(results: Path) -> dict[str, str]:
    """The table of every result under a folder, by its markers.

    Args:
        results (`Path`): The folder `results/`.

    Raises:
        ValueError: If a file is damaged.
    """
    present = {
        name: results / folder for name, folder in STUDIES.items() if (results / folder / RESULTS_FILE).exists()
    }
    found = {name: Results.load(folder).summary().strip() for name, folder in present.items()}
    for path in sorted(results.glob(COSTS)):
        found[f"benchmark-{path.parent.name}"] = costs_summary(read_json(path, AGAIN))
    found["demo-dense"] = dense_demo_table([read_json(results / f"demo-dense/{name}.json", AGAIN) for name in MODELS])
    for name, file, write in (
        ("demo", "demo/digits.json", demo_table),
        ("speed", USUAL_COSTS, costs_sentence),
        ("benchmark-gpu", f"benchmark/{GPU_FILE}", gpu_summary),
        ("serving", "serving.json", serving_summary),
        ("loop", "benchmark/loop.json", loop_sentence),
    ):
        if (results / file).exists():
            found[name] = write(read_json(results / file, AGAIN))
    return found


def fill(document: str, found: Mapping[str, str]) -> str:
    """A document with its tables as the files have them; tables without markers in it are left out."""
    for name, table in found.items():
        if markers(name)[0] in document:
            document = replace_block(document, table, name)
    return document


def shown(document: str, found: Mapping[str, str]) -> dict[str, str]:
    """By name, the tables that a document shows of those that there are."""
    return {name: read_block(document, name) for name in found if markers(name)[0] in document}


def demo_table(result: Json) -> str:
    """The demo on digits: what trains, the metric on the test split, and the size on disk."""
    rows = [
        f"| {TITLES[row['method']]} | {row['backbone_trainable']:,} | {_percent(row['test'])} | "
        f"{row['bytes_on_disk'] / 1000:,.0f} kB |"
        for row in result["rows"]
    ]
    head = ["| method | trains in the backbone | test accuracy | on disk |", "| --- | ---: | ---: | ---: |"]
    return "\n".join([f"Made by `{result['command']}`.", "", *head, *rows])


def dense_demo_table(results: Sequence[Json]) -> str:
    """The dense demos, a model a line; a method that was not measured has no metric."""
    lines = [
        f"| model, test metric | {' | '.join(TITLES[name] for name in METHODS)} |",
        "| --- | ---: | ---: | ---: |",
    ]
    for result in results:
        rows = {row["method"]: row for row in result["rows"]}
        (metric,) = {row["metric"] for row in rows.values()}
        cells = [_percent(rows[name]["test"]) if name in rows else "not measured" for name in METHODS]
        lines.append(f"| {MODELS[result['architecture']].title}, {METRIC_NAMES[metric]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    shares = [100 * value for value in values]
    return f"{mean(shares):.1f} ± {spread(shares):.1f}"
