"""Recipes and flags."""

import pytest

from mona_peft.finetuning.arguments import parse_arguments
from mona_peft.finetuning.training.config import TrainingConfig
from tests.support.scripts import load_script


def test_flags_win_over_the_recipe(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("learning_rate: 1.0e-3\nbatch_size: 8\nstep_epochs: [3, 5]\n")
    (config,) = parse_arguments([TrainingConfig], [str(recipe), "--batch_size", "4", "--resume"])
    assert (config.learning_rate, config.batch_size, config.step_epochs) == (1e-3, 4, [3, 5])
    assert config.resume and config.num_epochs == TrainingConfig().num_epochs


def test_unknown_settings_are_named(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("learning_rat: 1.0e-3\n")
    with pytest.raises(ValueError, match="unknown settings: learning_rat"):
        parse_arguments([TrainingConfig], [str(recipe)])
    recipe.write_text("- a\n- b\n")
    with pytest.raises(ValueError, match="must be a mapping"):
        parse_arguments([TrainingConfig], [str(recipe)])


@pytest.mark.parametrize(
    "script",
    ["train_classification", "train_semantic_segmentation", "train_detection", "train_instance_segmentation"],
)
def test_the_demos_refuse_settings_that_they_would_not_use(script, tmp_path):
    flags = ["--demo_size", "tiny", "--demo_dir", str(tmp_path), "--data_dir", "photos", "--learning_rate", "0.1"]
    with pytest.raises(ValueError, match="data_dir='photos', learning_rate=0.1 would have no effect. Give --dataset"):
        load_script(script).main(flags)
    assert not list(tmp_path.iterdir())
