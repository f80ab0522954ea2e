"""Every classification recipe is valid, says how to run it, and holds the paper's settings."""

import pytest
import yaml

from mona_peft.finetuning import recipes
from mona_peft.finetuning.commands.train import arguments
from mona_peft.finetuning.data.sources.presets import PRESETS
from mona_peft.finetuning.methods import METHODS
from mona_peft.finetuning.settings import parse_arguments

RECIPES = [
    path for path in map(recipes.path, recipes.names()) if yaml.safe_load(path.read_text()).get("dataset") in PRESETS
]
MODELS = ("swin-tiny", "swin-base", "swin-large", "vit-base")


def test_every_pair_of_model_and_data_set_has_a_recipe():
    wanted = {f"{model}-{data.replace('_', '-')}" for model in MODELS for data in PRESETS}
    assert {path.stem for path in RECIPES} >= wanted


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_is_valid(path):
    data, classification, training, _ = parse_arguments(arguments("classification"), [str(path), "--output_dir", "x"])
    assert data.dataset.replace("_", "-") in path.stem and classification.method in METHODS
    assert classification.method_options == {"bottleneck_dim": 64}
    assert (training.num_epochs, training.warmup_epochs, training.schedule) == (100, 20, "cosine")
    assert (training.min_lr_ratio, training.weight_decay, training.max_grad_norm) == (0.01, 0.05, 5.0)
    assert classification.drop_path == (None if "vit" in path.stem else 0.3)
    head = path.read_text().split("\n\n")[0]
    assert f" {path.stem} " in head and "accelerate launch" in head and "Expected" in head
    processes = 4
    assert "--num_processes 4" in head
    batch = training.batch_size * training.gradient_accumulation_steps * processes
    doubled = 1 if data.dataset == "voc2007" else 2
    assert batch == 16 and training.learning_rate == pytest.approx(doubled * 5e-4 * batch / 512)


@pytest.mark.parametrize("path", sorted((recipes.FOLDER / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_configurations_are_read(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes >= 2
    assert f"recipes/accelerate/{path.name}" in path.read_text()
