"""The README's table of the dense demo is that of the committed results."""

import json
from pathlib import Path
from statistics import mean, stdev

import pytest

from mona_peft.tasks.dense_demo import METHODS, SIZES

ROOT = Path(__file__).parents[2]
MODELS = {
    "semantic_segmentation": "UperNet, mean IoU",
    "detection": "RetinaNet, box AP",
    "instance_segmentation": "Cascade Mask R-CNN, mask AP",
}


@pytest.mark.parametrize("task", MODELS)
def test_readme_shows_the_demo_results(task):
    rows = json.loads((ROOT / "results" / "demo-dense" / f"{task}.json").read_text(encoding="utf-8"))["rows"]
    assert tuple(row["method"] for row in rows) == METHODS
    assert {len(row["test"]) for row in rows} == {SIZES["full"].seeds}
    cells = [f"{100 * mean(row['test']):.1f} ± {100 * stdev(row['test']):.1f}" for row in rows]
    line = f"| {MODELS[task]} | {' | '.join(cells)} |"
    assert line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
