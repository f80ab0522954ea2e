"""The committed results of the dense demo are those of its models, grids and seeds."""

import json
from pathlib import Path

import pytest

from mona_peft.finetuning.models.architectures import ARCHITECTURES
from mona_peft.finetuning.study.demo import METHODS
from mona_peft.finetuning.study.testbeds.scene_models import MODELS
from mona_peft.finetuning.study.testbeds.scenes import SIZES

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("architecture", sorted(MODELS))
def test_the_demo_results_are_of_the_demo(architecture):
    result = json.loads((ROOT / "results" / "demo-dense" / f"{architecture}.json").read_text(encoding="utf-8"))
    rows, model = result["rows"], MODELS[architecture]
    assert (result["architecture"], result["task"]) == (architecture, ARCHITECTURES[architecture].task)
    assert {"mona", "fixed"} <= {row["method"] for row in rows} <= set(METHODS)
    assert len({row["metric"] for row in rows}) == 1
    assert {len(row["test"]) for row in rows} == {SIZES["full"].seeds}
    assert {row["learning_rate"] for row in rows} <= set(model.learning_rates)
