"""The page's table of the dense demo is that of the committed results."""

import json
from pathlib import Path
from statistics import mean, stdev

import pytest

from mona_peft.finetuning.models.architectures import ARCHITECTURES
from mona_peft.finetuning.study.demo import METHODS
from mona_peft.finetuning.study.testbeds.recipes import METRIC_NAMES
from mona_peft.finetuning.study.testbeds.scene_models import MODELS
from mona_peft.finetuning.study.testbeds.scenes import SIZES

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("architecture", sorted(MODELS))
def test_the_page_shows_the_demo_results(architecture):
    result = json.loads((ROOT / "results" / "demo-dense" / f"{architecture}.json").read_text(encoding="utf-8"))
    rows, model = result["rows"], MODELS[architecture]
    assert (result["architecture"], result["task"]) == (architecture, ARCHITECTURES[architecture].task)
    assert tuple(row["method"] for row in rows) == METHODS
    assert {len(row["test"]) for row in rows} == {SIZES["full"].seeds}
    assert {row["learning_rate"] for row in rows} <= set(model.learning_rates)
    cells = [f"{100 * mean(row['test']):.1f} ± {100 * stdev(row['test']):.1f}" for row in rows]
    (metric,) = {row["metric"] for row in rows}
    line = f"| {model.title}, {METRIC_NAMES[metric]} | {' | '.join(cells)} |"
    assert line in (ROOT / "docs" / "results.md").read_text(encoding="utf-8").splitlines()
