"""The paper's comparisons as commands: grids that contain the official rates, batches that are the official ones."""

import re
import shlex
from pathlib import Path

import pytest

from mona_peft.finetuning import recipes
from mona_peft.finetuning.recipe_files import read_mapping
from mona_peft.finetuning.study.command import make_plan, own_settings
from mona_peft.finetuning.study.config import CompareConfig, parse_study
from mona_peft.finetuning.study.variants import PAPER_METHODS, method_variants
from mona_peft.finetuning.tasks.config import TASK_SETTINGS
from tests.finetuning.study.fakes import FakeTestbed

TASKS = {"ade20k": "semantic_segmentation", "voc0712": "detection", "coco": "instance_segmentation"}
#: Of the authors' configurations: by data set the rate of the other methods, and Mona's.
OFFICIAL = {
    "flowers102": (5e-4 * 16 / 512, 5e-4 * 16 / 512 * 2),
    "oxford_pets": (5e-4 * 16 / 512, 5e-4 * 16 / 512 * 2),
    "voc2007": (5e-4 * 16 / 512, 5e-4 * 16 / 512),
    "ade20k": (6e-5, 6e-5 * 5),
    "voc0712": (1e-4, 1e-4),
    "coco": (1e-4, 1e-4),
}


@pytest.mark.parametrize("name", recipes.names())
def test_the_grid_of_every_method_contains_the_official_rate(name):
    dataset = read_mapping(recipes.path(name))["dataset"]
    task = TASKS.get(dataset, "classification")
    assert task in TASK_SETTINGS
    study, compare, _, config, training = parse_study(CompareConfig, [name, "--task", task])
    variants = method_variants([*compare.methods, "mona-official"], {})
    plan = make_plan(study, FakeTestbed(), variants, training, False, own_settings(config, "learning_rate"))
    assert [variant.label for variant in variants[:-1]] == list(PAPER_METHODS)
    for variant in variants:
        rate = OFFICIAL[dataset][variant.method == "mona"]
        grid = plan.grid(variant)
        assert rate == pytest.approx(min(grid, key=lambda one: abs(one - rate)), rel=1e-6)
        assert min(grid) < 0.9 * rate < 1.1 * rate < max(grid), "and what lies around it"


PAGE = Path(__file__).parents[3] / "docs" / "results.md"
BLOCKS = re.findall(r"^```text\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
COMMANDS = [
    shlex.split(line)[2:]
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("mona-peft compare")
]


def test_the_page_has_a_comparison_for_every_data_set_of_the_paper():
    assert {read_mapping(recipes.path(words[0]))["dataset"] for words in COMMANDS} == set(OFFICIAL)


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_the_commands_of_the_page_take_the_official_batch_in_one_process(words):
    study, _, data, config, training = parse_study(CompareConfig, words)
    assert study.task == TASKS.get(data.dataset, "classification")
    batch = training.batch_size * training.gradient_accumulation_steps
    assert batch == (2 if data.dataset == "voc0712" else 16)
    assert getattr(config, "architecture_options", {}).get("head_norm") != "sync", "one process has none to wait for"
