"""Every recipe runs with every method, on tiny data in the official layout and a tiny model."""

import json

import pytest
from transformers import ViTImageProcessor

from mona_peft.finetuning import recipes
from mona_peft.finetuning.commands.train import read
from mona_peft.finetuning.recipe_files import read_mapping
from mona_peft.finetuning.study.variants import PAPER_METHODS
from tests.finetuning.official_layouts import LAYOUTS, tiny_flags
from tests.finetuning.tasks.tiny_dense import write_swin, write_vit

RECIPES = {name: read_mapping(recipes.path(name)) for name in recipes.names()}
# One recipe of each data set, with methods that want other settings than Mona.
QUICK = {
    "swin-large-flowers102": "full",
    "swin-base-oxford-pets": "lora",
    "vit-base-voc2007": "mona",
    "swin-large-upernet-ade20k": "lora",
    "swin-large-retinanet-voc0712": "fixed",
    "swin-base-cascade-coco": "bottleneck",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("official")
    write_swin(root / "swin")
    write_vit(root / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(root / "vit")
    for name, (write, _) in LAYOUTS.items():
        (root / name).mkdir()
        write(root / name)
    return root


def check_run(name, method, place, folder):
    recipe = RECIPES[name]
    dataset = recipe["dataset"]
    model = place / ("vit" if "vit" in name else "swin")
    flags = tiny_flags(dataset, place / dataset, model, recipe.get("architecture"))
    words = [name, *flags, "--method", method, "--output_dir", str(folder)]
    figures = read(words, LAYOUTS[dataset][1])()
    assert figures["steps"] == 1 and ("test" in figures or "validation" in figures)
    recorded = json.loads((folder / "run.json").read_text())
    own = recipe["by_method"].get(method, {})
    assert recorded["method"] == method and recorded["method_options"] == own.get("options", {})
    assert recorded["learning_rate"] == float(own.get("learning_rate", recipe["learning_rate"]))
    drop_path = own.get("drop_path", recipe.get("drop_path"))
    assert recorded["drop_path"] == (None if drop_path is None else float(drop_path))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "method"), QUICK.items())
def test_a_recipe_of_every_data_set_runs_with_another_method(name, method, place, tmp_path):
    check_run(name, method, place, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.campaign
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_runs_with_at_least_three_methods(name, place, tmp_path):
    methods = PAPER_METHODS if name in QUICK else ("mona", "full", "lora")
    for method in methods:
        check_run(name, method, place, tmp_path / method)
