"""What the measurement of serving says is of what it says."""

import json
from pathlib import Path

import pytest

from mona_peft.finetuning.costs.serving import ServingConfig, measure_serving

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


def test_the_results_have_every_number_of_adapters():
    results = json.loads(RESULTS.read_text())
    rows = {(row["way"], row["adapters"]): row for row in results["rows"]}
    counts = results["settings"]["counts"]
    assert rows.keys() == {(way, count) for way in ("router", "models") for count in counts}
    for count in counts[1:]:
        router, models = rows["router", count], rows["models", count]
        for name in ("tensor_bytes", "resident_bytes"):
            assert router[name] < models[name]
