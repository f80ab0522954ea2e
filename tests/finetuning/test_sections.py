"""What belongs to one method stands in its section: no other method inherits it, and a flag wins."""

import pytest

from mona_peft.finetuning import sections
from mona_peft.finetuning.command_line import parse_arguments
from mona_peft.finetuning.data.sources.config import DataConfig, SegmentationDataConfig
from mona_peft.finetuning.tasks.config import ClassificationConfig, SemanticSegmentationConfig
from mona_peft.finetuning.training.config import TrainingConfig

TYPES = (DataConfig, ClassificationConfig, TrainingConfig)
RECIPE = """
learning_rate: 1e-5
drop_path: 0.1
by_method:
  mona: {learning_rate: 3e-4, drop_path: 0.2, options: {bottleneck_dim: 32, init_weights: official}}
  lora: {options: {r: 4}}
"""
MONA = {"bottleneck_dim": 32, "init_weights": "official"}


@pytest.fixture
def fill(tmp_path):
    def fill(text, *flags, every_method=False):
        file = tmp_path / "recipe.yaml"
        file.write_text(text)
        _, config, training = parse_arguments(TYPES, [str(file), *flags], every_method=every_method)
        return config, training

    return fill


@pytest.mark.parametrize(
    ("flags", "method", "options", "drop_path", "rate"),
    [
        ([], "mona", MONA, 0.2, 3e-4),
        (["--method", "full"], "full", {}, 0.1, 1e-5),
        (["--method", "lora"], "lora", {"r": 4}, 0.1, 1e-5),
        (["--learning_rate", "0.5"], "mona", MONA, 0.2, 0.5),
        (["--drop_path", "0"], "mona", MONA, 0.0, 3e-4),
        (["--method_options", '{"bottleneck_dim": 8}'], "mona", {**MONA, "bottleneck_dim": 8}, 0.2, 3e-4),
        (["--method", "lora", "--method_options", '{"lora_alpha": 1}'], "lora", {"r": 4, "lora_alpha": 1}, 0.1, 1e-5),
        (
            ["--method=bottleneck", '--method_options={"bottleneck_dim": 8}'],
            "bottleneck",
            {"bottleneck_dim": 8},
            0.1,
            1e-5,
        ),
    ],
)
def test_each_method_gets_its_own(fill, flags, method, options, drop_path, rate):
    config, training = fill(RECIPE, *flags)
    assert (config.method, config.method_options) == (method, options)
    assert (config.drop_path, training.learning_rate) == (drop_path, rate)


def test_a_flag_gives_single_settings_of_a_mapping(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("architecture: upernet\narchitecture_options: {hidden_size: 16, head_norm: sync}\n")
    types = (SegmentationDataConfig, SemanticSegmentationConfig, TrainingConfig)
    _, config, _ = parse_arguments(types, [str(file), "--architecture_options", '{"head_norm": "group"}'])
    assert config.architecture_options == {"hidden_size": 16, "head_norm": "group"}


@pytest.mark.parametrize(("flags", "options"), [([], {"r": 8}), (["--method", "full"], {})])
def test_options_outside_a_section_are_those_of_the_recipes_method(fill, flags, options):
    config, _ = fill("method: lora\nmethod_options: {r: 8}\n", *flags)
    assert config.method_options == options and config.by_method == {}


def test_a_study_gets_all_sections_and_flags_are_in_none(fill):
    config, training = fill(RECIPE, "--drop_path", "0.4", every_method=True)
    assert training.learning_rate == 1e-5 and config.drop_path == 0.4
    assert config.by_method == {
        "mona": {"options": MONA, "learning_rate": 3e-4, "drop_path": None},
        "lora": {"options": {"r": 4}, "learning_rate": None, "drop_path": None},
    }


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{mono: {}}", "Unknown method 'mono'"),
        ("{full: {options: {bottleneck_dim: 64}}}", "'full' has no setting bottleneck_dim"),
        ("{mona: {options: {botleneck_dim: 64}}}", "'mona' has no setting botleneck_dim"),
        ("{mona: {rate: 1}}", "section of 'mona' in by_method has no setting rate; it has drop_path"),
        ("{lora: {learning_rate: -1}}", "section of 'lora' in by_method: learning_rate is -1"),
        ("{lora: 3}", "by_method of lora is 3; it must be a mapping"),
        ("{mona: {options: 3}}", "options is 3"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(fill, section, message):
    with pytest.raises(ValueError, match=message):
        fill(f"by_method: {section}\n")


@pytest.mark.parametrize("method", [["mona"], {"mona": {}}, 3, None])
def test_a_method_that_is_no_text_is_refused(method):
    with pytest.raises(ValueError, match="it must be the name of one method"):
        sections.sections({"method": method, "method_options": {"bottleneck_dim": 8}}, {}, "mona")
