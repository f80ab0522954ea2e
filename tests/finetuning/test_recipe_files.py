"""The recipes in the package: listed, found by name, and used by the command line as a file is."""

import pytest

from mona_peft.finetuning import recipes
from mona_peft.finetuning.command_line import parse_arguments
from mona_peft.finetuning.commands.train import arguments
from mona_peft.finetuning.training.config import TrainingConfig


def test_names_are_those_of_the_files():
    assert "swin-large-flowers102" in recipes.names() and "cpu" not in recipes.names()
    assert all(recipes.path(name).is_file() for name in recipes.names())
    assert recipes.launch_config("cpu").is_file()


def test_a_file_is_taken_as_it_is(tmp_path):
    assert recipes.path(str(tmp_path / "own.yml")) == tmp_path / "own.yml"


def test_unknown_names_list_the_known():
    with pytest.raises(ValueError, match="no recipe 'swin-huge'; give a YAML file, or one of swin-base-cascade-coco"):
        recipes.path("swin-huge")
    with pytest.raises(ValueError, match="no launch configuration 'tpu'; choose one of cpu"):
        recipes.launch_config("tpu")
    with pytest.raises(ValueError, match="no recipe 'swin-huge'"):
        parse_arguments([TrainingConfig], ["swin-huge"])


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_says_what_it_is(name):
    text = recipes.description(name)
    assert 20 < len(text) < 200 and "\n" not in text and "#" not in text
    assert name in recipes.head(name)


def test_a_name_and_its_file_fill_the_same_settings():
    types = arguments("classification")
    named = parse_arguments(types, ["swin-large-flowers102", "--seed", "3"])
    filed = parse_arguments(types, [str(recipes.path("swin-large-flowers102")), "--seed", "3"])
    assert named == filed and named[2].seed == 3 and named[0].dataset == "flowers102"
