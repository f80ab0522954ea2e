"""What the measurement of serving says is of what it says."""

import json
from pathlib import Path

import pytest

from mona_peft.finetuning.costs.serving import ServingConfig, measure_serving, serving_summary

RESULTS = Path(__file__).parents[3] / "results" / "serving.json"


@pytest.mark.slow
def test_serving_is_measured_both_ways(tmp_path):
    config = ServingConfig(model="swin-nano", image_size=32, counts=[3], batch_size=4, rounds=1)
    router, models = measure_serving(config, tmp_path)
    assert (router["way"], models["way"]) == ("router", "models")
    assert router["adapters"] == models["adapters"] == router["batch_adapters"] == 3
    assert 0 < router["tensor_bytes"] < models["tensor_bytes"]
    times = {name for row in (router, models) for name, value in row.items() if name.endswith("seconds") and value > 0}
    assert times == {
        "load_cpu_seconds",
        "one_pass_cpu_seconds",
        "a_pass_an_adapter_cpu_seconds",
        "one_adapter_cpu_seconds",
        "a_pass_a_model_cpu_seconds",
    }


def test_a_row_of_the_table_has_the_figures_of_its_way():
    router = {"tensor_bytes": 2_400_000, "resident_bytes": 3_000_000, "one_pass_cpu_seconds": 1.25}
    models = {"tensor_bytes": 9_600_000, "resident_bytes": 8_000_000, "a_pass_a_model_cpu_seconds": 2.5}
    rows = [
        {"way": "router", "adapters": 9, "load_cpu_seconds": 0.5, **router},
        {"way": "models", "adapters": 9, "load_cpu_seconds": 1.0, **models},
    ]
    settings = {"model": "vit-t", "method": "mona", "batch_size": 8}
    head, _, titles, _, *lines = serving_summary({"rows": rows, "settings": settings, "command": "run"}).splitlines()
    assert head == "vit-t with mona, batches of 8; times in CPU seconds; `run`."
    assert titles.endswith("| to load one, s | one pass, s | a pass a model, s |")
    assert lines == [
        "| 9 | router | 2 | 3 | 0.50 | 1.25 |  |",
        "| 9 | models | 10 | 8 | 1.00 |  | 2.50 |",
    ]


def test_the_results_have_every_number_of_adapters():
    results = json.loads(RESULTS.read_text())
    rows = {(row["way"], row["adapters"]): row for row in results["rows"]}
    counts = results["settings"]["counts"]
    assert rows.keys() == {(way, count) for way in ("router", "models") for count in counts}
    for count in counts[1:]:
        router, models = rows["router", count], rows["models", count]
        for name in ("tensor_bytes", "resident_bytes"):
            assert router[name] < models[name]
