"""Recipes, flags, and the checks of every setting."""

import math
from dataclasses import fields

import pytest

from mona_peft.finetuning.command_line import parse_arguments
from mona_peft.finetuning.commands.main import run
from mona_peft.finetuning.costs.config import CostsConfig
from mona_peft.finetuning.data.sources.classification import DataConfig
from mona_peft.finetuning.data.sources.dense import ObjectDataConfig, SegmentationDataConfig
from mona_peft.finetuning.inference.predict import PredictionConfig
from mona_peft.finetuning.study.command import AblateConfig, CompareConfig, StudyConfig
from mona_peft.finetuning.tasks.classification import ClassificationConfig
from mona_peft.finetuning.tasks.detection import DetectionConfig
from mona_peft.finetuning.tasks.instance_segmentation import InstanceSegmentationConfig
from mona_peft.finetuning.tasks.semantic_segmentation import SemanticSegmentationConfig
from mona_peft.finetuning.training.config import TrainingConfig

CONFIGS = (
    TrainingConfig,
    ClassificationConfig,
    SemanticSegmentationConfig,
    DetectionConfig,
    InstanceSegmentationConfig,
    DataConfig,
    SegmentationDataConfig,
    ObjectDataConfig,
    CostsConfig,
    StudyConfig,
    CompareConfig,
    AblateConfig,
)


def parse(tmp_path, recipe, *flags, types=(TrainingConfig,)):
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe)
    filled = parse_arguments(types, [str(path), *flags])
    return filled[0] if len(types) == 1 else filled


def test_flags_win_over_the_recipe(tmp_path):
    recipe = "learning_rate: 1.0e-3\nbatch_size: 8\nstep_epochs: [3, 5]\n"
    config = parse(tmp_path, recipe, "--batch_size", "4", "--resume", "--warmup_steps=2", "--no_progress_bar")
    assert (config.learning_rate, config.batch_size, config.step_epochs) == (1e-3, 4, [3, 5])
    assert config.resume and config.num_epochs == TrainingConfig().num_epochs
    assert config.warmup_steps == 2 and not config.progress_bar


def test_unknown_settings_are_named(tmp_path):
    with pytest.raises(ValueError, match="unknown settings: learning_rat"):
        parse(tmp_path, "learning_rat: 1.0e-3\n")
    with pytest.raises(ValueError, match="unknown settings: 3"):
        parse(tmp_path, "3: 1\nnull: 2\n")
    with pytest.raises(ValueError, match="must be a mapping"):
        parse(tmp_path, "- a\n- b\n")
    with pytest.raises(SystemExit):
        parse(tmp_path, "", "--learning_rat", "1")


@pytest.mark.parametrize(
    "recipe", ["a: [", "a: {b: 2024-13-45}", "\x00", "? [1]\n: 2", "[" * 5000, "a: !!python/name:os"]
)
def test_recipes_that_cannot_be_read_are_named(tmp_path, recipe):
    with pytest.raises(ValueError, match=r"recipe\.yaml cannot be read"):
        parse(tmp_path, recipe)


def test_a_recipe_means_its_words(tmp_path):
    recipe = "report_to: none\nmixed_precision: no\nlearning_rate: 1e-3\nmax_grad_norm: none\nresume: yes\n"
    config = parse(tmp_path, recipe + "max_steps:\nhub_model_id: 2024-01-02\n")
    assert (config.report_to, config.mixed_precision, config.learning_rate) == (["none"], "no", 1e-3)
    assert config.max_grad_norm is None and config.max_steps is None and config.resume
    assert config.hub_model_id == "2024-01-02"
    recipe = "class_names: abc\nmethod: lora\nmethod_options: {r: 16, lora_dropout: 0.5}\n"
    data, task = parse(tmp_path, recipe, types=(DataConfig, ClassificationConfig))
    assert data.class_names == ["abc"] and task.method_options == {"r": 16, "lora_dropout": 0.5}
    assert parse(tmp_path, "class_names: [yes, 1.0, 007]\n", types=(DataConfig,)).class_names == ["yes", "1.0", "007"]


@pytest.mark.parametrize("word", ["none", "None", "null"])
def test_none_is_no_clipping(word):
    assert parse_arguments([TrainingConfig], ["--max_grad_norm", word])[0].max_grad_norm is None


REFUSED = [
    ("eval_steps", "0"),
    ("checkpoint_steps", "0"),
    ("max_steps", "0"),
    ("max_steps", "1.5"),
    ("early_stopping_patience", "0"),
    ("batch_size", "16.0"),
    ("batch_size", "none"),
    ("batch_size", "true"),
    ("max_grad_norm", "-1"),
    ("max_grad_norm", "0"),
    ("max_grad_norm", "nan"),
    ("weight_decay", "inf"),
    ("weight_decay", "-0.1"),
    ("warmup_epochs", "nan"),
    ("warmup_steps", "-3"),
    ("learning_rate", "inf"),
    ("learning_rate", "0"),
    ("adam_beta2", "1"),
    ("seed", "-1"),
    ("schedule", "cosin"),
    ("resume", "perhaps"),
    ("process_timeout", "0"),
]


@pytest.mark.parametrize("name, value", REFUSED)
def test_flags_and_recipes_refuse_the_same(tmp_path, name, value):
    message = f"{name} is .*{value}.*; it must be"
    with pytest.raises(ValueError, match=message):
        parse_arguments([TrainingConfig], [f"--{name}={value}"])
    with pytest.raises(ValueError, match=rf"recipe\.yaml: {message}"):
        parse(tmp_path, f"{name}: {value}\n")


@pytest.mark.parametrize(
    "name, value",
    [("batch_size", [1, 2]), ("batch_size", None), ("batch_size", "3"), ("batch_size", True), ("max_steps", 1.5)]
    + [("step_epochs", [1, "a"]), ("step_epochs", 3), ("learning_rate", math.nan), ("schedule", 5), ("resume", 1)],
)
def test_python_refuses_wrong_types(name, value):
    with pytest.raises(ValueError, match=f"{name} is .*; it must be"):
        TrainingConfig(**{name: value})


@pytest.mark.parametrize("value", ["[1, 2]", "{a: 1}", "null", "2024-01-02", "!!binary aGk="])
def test_recipes_refuse_wrong_types(tmp_path, value):
    with pytest.raises(ValueError, match="batch_size is .*; it must be a whole number, at least 1"):
        parse(tmp_path, f"batch_size: {value}\n")


def test_predictions_have_the_same_checks():
    for flag in (["--batch_size", "0"], ["--batch_size", "-1"], ["--top_k", "0"], ["--threshold", "nan"]):
        with pytest.raises(ValueError, match=f"{flag[0][2:]} is .*; it must be"):
            parse_arguments([PredictionConfig], ["--model", "x", *flag])


@pytest.mark.parametrize("config_type", CONFIGS)
def test_every_setting_checks_its_type_and_has_a_sensible_range(config_type):
    """No number without a lower bound, nothing takes what is no value at all."""
    config_type()
    for entry in fields(config_type):
        with pytest.raises(ValueError, match=f"{entry.name} is"):
            config_type(**{entry.name: object()})
        if "int" in str(entry.type) or "float" in str(entry.type):
            limits = entry.metadata["limits"]
            assert limits["least"] is not None or limits["above"] is not None, entry.name


@pytest.mark.parametrize("word", ["classification", "segmentation", "detection", "instances"])
def test_the_demos_refuse_settings_that_they_would_not_use(word, tmp_path):
    flags = ["--demo_size", "tiny", "--demo_dir", str(tmp_path), "--data_dir", "photos", "--learning_rate", "0.1"]
    with pytest.raises(ValueError, match="data_dir='photos', learning_rate=0.1 would have no effect. Give --dataset"):
        run("train", word, *flags)
    assert not list(tmp_path.iterdir())
