"""Every classification recipe holds the official settings, for Mona and every other method, and says how to run."""

import shlex

import pytest

from mona_peft.finetuning import recipes
from mona_peft.finetuning.command_line import parse_arguments
from mona_peft.finetuning.commands.train import arguments
from mona_peft.finetuning.data.sources.presets import PRESETS
from mona_peft.finetuning.recipe_files import read_mapping
from mona_peft.finetuning.study.variants import PAPER_METHODS

RECIPES = [name for name in recipes.names() if read_mapping(recipes.path(name))["dataset"] in PRESETS]
MODELS = ("swin-tiny", "swin-base", "swin-large", "vit-base")
#: Of the authors' configurations: 5e-4 * 16 / 512, twice that for Mona on two of the data sets.
RATES = {"flowers102": (1.5625e-5, 3.125e-5), "oxford_pets": (1.5625e-5, 3.125e-5), "voc2007": (1.5625e-5, 1.5625e-5)}
OFFICIAL = {"bottleneck_dim": 64, "init_weights": "official"}
OPTIONS = {
    "mona": OFFICIAL,
    "bottleneck": OFFICIAL,
    "adaptformer": {**OFFICIAL, "adaptformer_activation": "gelu"},
    "lora": {"r": 64, "lora_alpha": 1},
}


def test_every_pair_of_model_and_data_set_has_a_recipe():
    assert set(RECIPES) == {f"{model}-{data.replace('_', '-')}" for model in MODELS for data in PRESETS}


@pytest.mark.parametrize("name", RECIPES)
def test_every_method_has_the_official_settings(name):
    for method in PAPER_METHODS:
        data, config, training, *_ = parse_arguments(arguments("classification"), [name, "--method", method])
        assert data.dataset.replace("_", "-") in name
        assert training.learning_rate == pytest.approx(RATES[data.dataset][method == "mona"])
        assert config.method_options == OPTIONS.get(method, {})
        assert config.drop_path == (None if "vit" in name else 0.3)
    assert (training.num_epochs, training.warmup_epochs, training.schedule) == (100, 20, "cosine")
    assert (training.decay_from_start, training.warmup_ratio, training.min_lr_ratio) == (True, 0.001, 0.01)
    assert (training.weight_decay, training.max_grad_norm, training.mixed_precision) == (0.05, 5.0, "fp16")
    assert (config.interpolation, config.crop_scale, config.horizontal_flip) == ("bilinear", [0.08, 1.0], 0.5)


def commands(name):
    """The commands of a recipe's head, as words."""
    lines = recipes.head(name).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("  ") and "mona" in line]


@pytest.mark.parametrize("name", RECIPES)
def test_the_commands_of_the_head_take_sixteen_images_a_step(name):
    several, single = commands(name)
    assert several[:5] == ["accelerate", "launch", "--multi_gpu", "--num_processes", "4"]
    assert several[5:8] == ["-m", "mona_peft", "train"] and single[:2] == ["mona-peft", "train"]
    for processes, words in ((4, several[9:]), (1, single[3:])):
        _, _, training, *_ = parse_arguments(arguments("classification"), words)
        assert processes * training.batch_size * training.gradient_accumulation_steps == 16
    assert "Expected" in recipes.head(name)


@pytest.mark.parametrize("name", recipes.names())
def test_what_the_papers_weights_and_recipes_do_not_have_is_said(name):
    head = recipes.head(name)
    assert ("ImageNet-1k" in head) == ("swin-tiny" in name), "microsoft/swin-tiny has no weights of 22k"
    if "vit" in name:
        assert "no recipe for ViT" in head.replace("nor a recipe", "no recipe").replace("\n", " ")


@pytest.mark.parametrize("path", sorted((recipes.FOLDER / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_configurations_are_read(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes >= 2 and config.mixed_precision == "no"  # the recipes say their own
    assert f"recipes/accelerate/{path.name}" in path.read_text()
