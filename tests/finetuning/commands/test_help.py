"""What the command says of itself: groups, lengths, methods; quickly, without torch."""

import subprocess
import sys

import pytest

from mona_peft.asked import only_explains
from mona_peft.finetuning import recipes
from mona_peft.finetuning.arguments import Parser, Program
from mona_peft.finetuning.commands.command import Command
from mona_peft.finetuning.commands.layout import COMMON, GROUPS
from mona_peft.finetuning.commands.main import COMMANDS, main, run
from mona_peft.finetuning.commands.train import TASK_WORDS, arguments
from mona_peft.finetuning.costs.config import CostsConfig
from mona_peft.finetuning.methods import METHODS
from mona_peft.finetuning.models import names
from mona_peft.finetuning.models.architectures import ARCHITECTURES, architectures_for
from mona_peft.finetuning.study.config import StudyConfig

HELPS = [
    [word, *more]
    for word, found in COMMANDS.items()
    for more in ([[]] if isinstance(found, Command) else [[one] for one in found])
]


def help_of(words, capsys, monkeypatch, flag="--help"):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        main([*words, flag])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_common_settings_fit_a_screen_and_all_of_them_are_told(words, capsys, monkeypatch):
    short = help_of(words, capsys, monkeypatch)
    assert len(short.splitlines()) < 80 and short.startswith(f"usage: mona-peft {' '.join(words)}")
    everything = help_of(words, capsys, monkeypatch, "--help-all")
    assert len(everything.splitlines()) >= len(short.splitlines())


@pytest.mark.parametrize("word", TASK_WORDS)
def test_help_of_training_has_groups_and_methods(word, capsys, monkeypatch):
    text = help_of(["train", word], capsys, monkeypatch)
    places = [text.index(f"\n{title}:\n") for title in ("data", "model", "method", "recipe", "loop", "output")]
    assert places == sorted(places)
    flat = " ".join(text.split())
    assert ", ".join(METHODS) in flat
    for flag in ("--dataset", "--validation_fraction", "--skip_bad_images", "--model", "--image_size", "--recipe"):
        assert f"  {flag} " in text, flag
    everything = help_of(["train", word], capsys, monkeypatch, "--help-all")
    flags = [f"--{entry}" for kind in arguments(word) for entry in kind.__dataclass_fields__]
    assert all(f"  {flag} " in everything for flag in flags)


def test_every_task_has_the_same_data_flags():
    shared = set.intersection(*(set(arguments(word)[0].__dataclass_fields__) for word in TASK_WORDS))
    assert shared >= {
        *("dataset", "data_dir", "hub_id", "hub_config", "hub_revision", "image_column", "label_column"),
        *("class_names", "train_split", "validation_split", "test_split", "validation_fraction", "skip_bad_images"),
    }


def test_the_layout_names_settings_that_there_are():
    kinds = [*(kind for word in TASK_WORDS for kind in arguments(word)), CostsConfig, StudyConfig]
    known = {name for kind in kinds for name in kind.__dataclass_fields__} | {"methods"}
    assert known >= COMMON and known >= set().union(*GROUPS.values())


def test_a_flag_has_one_spelling(capsys):
    parser = Parser(arguments("classification"), Program())
    flags = [flag for action in parser._actions for flag in action.option_strings]
    assert not [flag for flag in flags if "-" in flag[2:] and flag != "--help-all"]
    assert "--model" in flags and "--model_name_or_path" not in flags
    with pytest.raises(SystemExit) as ended:
        main(["train", "classification", "--warmup-steps", "3"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "Is --warmup_steps meant?" in said and len(said.splitlines()) == 1


EXPLAIN = """import sys
from mona_peft.finetuning.commands.main import main
try:
    main(sys.argv[1:])
finally:
    print(sorted({"torch", "transformers", "peft", "datasets", "torchvision", "accelerate"} & set(sys.modules)))
"""


@pytest.mark.parametrize("words", [["train", "detection", "--help"], ["recipes"]], ids=" ".join)
def test_explaining_imports_nothing_heavy(words, tmp_path):
    script = tmp_path / "mona-peft"
    script.write_text(EXPLAIN)
    done = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("process", "explains"),
    [
        ("python -m mona_peft --help", True),
        ("python -X importtime -m mona_peft train detection -h", True),
        ("python /usr/bin/mona-peft recipes", True),
        ("python /usr/bin/mona-peft", True),
        ("python /usr/bin/mona-peft train classification --dataset help", False),
        ("python train.py --help", False),
        ("python -m pytest mona-peft --help", False),
        ("python", False),
        ("python -c pass --help", False),
    ],
)
def test_only_the_command_itself_goes_without_the_tuners(process, explains):
    assert only_explains(process.split()) is explains


def test_recipes_are_listed_and_printed(capsys):
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert all(f"{name} " in listed and recipes.description(name) in listed for name in recipes.names())
    assert main(["recipes", "swin-large-flowers102"]) == 0
    assert capsys.readouterr().out == recipes.path("swin-large-flowers102").read_text()


def test_recipes_go_by_flag_and_by_place(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("mona_peft.finetuning.commands.train.train", lambda *settings: seen.append(settings))
    run("train", "classification", "swin-large-flowers102", "--seed", "3")
    run("train", "classification", "--seed", "3", "--recipe", "swin-large-flowers102")
    run("train", "classification", "--recipe=" + str(recipes.path("swin-large-flowers102")), "--seed", "3")
    assert seen[0] == seen[1] == seen[2] and seen[0][1].dataset == "flowers102"
    with pytest.raises(ValueError, match="two recipes, a and b"):
        run("train", "classification", "a", "--recipe", "b")
    with pytest.raises(ValueError, match="--recipe needs the name"):
        run("train", "classification", "--recipe")


def test_unknown_commands_list_the_known(capsys):
    assert main(["trian"]) == 2
    assert "no command 'trian'; choose one of train, predict, compare" in capsys.readouterr().err
    assert main(["train", "boxes"]) == 2
    assert "choose one of classification, segmentation, detection, instances" in capsys.readouterr().err


def test_names_are_those_of_the_tables():
    assert {task: architectures_for(task) for task in names.DENSE_TASKS} == names.DENSE_TASKS
    assert {row.task for row in ARCHITECTURES.values()} == set(names.DENSE_TASKS)
    assert all(0 < row.learning_rate < 0.1 for row in METHODS.values())
