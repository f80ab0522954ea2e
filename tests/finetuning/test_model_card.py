"""The card says what is known, in Markdown that no name can break, and tells nothing of the machine."""

import re
import sys

import pytest
from huggingface_hub import ModelCard

from mona_peft.finetuning import environment, model_card
from mona_peft.finetuning.environment import command_line, is_hub_id, package_versions, public_name, without_paths
from mona_peft.finetuning.model_card import write_card

FACTS = {"task": "image-classification", "base_model": "microsoft/swin-tiny", "dataset": "user/pets", "method": "mona"}
FIGURES = {"test": {"loss": 0.5, "accuracy": 0.9, "samples": 12, "nan": float("nan")}, "train": {"loss": 1.0}}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "flowers" / "model"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    return folder


def card_of(folder, facts=FACTS, figures=FIGURES, usage="import mona_peft"):
    return ModelCard.load(write_card(folder, facts, figures, usage))


def test_metadata(folder):
    data = card_of(folder).data
    assert data.library_name == "peft" and data.base_model == "microsoft/swin-tiny"
    assert data.base_model_relation == "adapter" and data.datasets == ["user/pets"]
    assert data.metrics == ["accuracy"] and data.get("license") is None
    found = {(result.dataset_split, result.metric_type): result.metric_value for result in data.eval_results}
    assert found == {("test", "loss"): 0.5, ("test", "accuracy"): 0.9, ("test", "samples"): 12}


def test_the_licence_is_the_bases_or_none(folder, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    facts = {**FACTS, "base_model": str(base)}
    assert card_of(folder, facts).data.get("license") is None
    (base / "README.md").write_text("---\nlicense: mit\n---\n")
    assert card_of(folder, facts).data.license == "mit"
    (base / "README.md").write_text("---\n- broken: [\n---\n")
    assert card_of(folder, facts).data.get("license") is None


def test_folders_are_named_in_the_text_only(folder, tmp_path, monkeypatch):
    base, data = tmp_path / "base", tmp_path / "photos"
    base.mkdir()
    data.mkdir()
    words = ["train.py", f"--model={base}", "--data_dir", str(data), "--output_dir", "runs/x"]
    words += ["--options", f'{{"table": "{data}/a.csv", "rate": "1/2"}}', "~/recipe.yaml", "../up/there"]
    monkeypatch.setattr(sys, "argv", words)
    card = card_of(folder, {**FACTS, "base_model": str(base), "dataset": str(data)})
    assert card.data.get("base_model") is None and card.data.get("datasets") is None
    assert str(tmp_path) not in str(card) and "up/there" not in str(card)
    assert "`base`" in card.text and "--output_dir runs/x" in card.text and "a.csv" in card.text and "1/2" in card.text


HOSTILE = [
    "[click](http://evil.example)",
    "![x](http://evil.example/x.png)",
    "<script>alert(1)</script>",
    "a | b | c",
    "**bold** _and_ `code`",
    "``` \n# Heading\n---\nlicense: mit\n---",
    "x: [y, {z: 1}]\n- item",
    "&lt;b&gt; $x$ ~~no~~ @user #1",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_with_markup_do_no_harm(folder, name):
    clean = card_of(folder, figures={"test": {"iou plain": 0.5}})
    figures = {"test": {f"iou {name}": 0.5}}
    card = card_of(folder, {**FACTS, "method": name, "dataset": name}, figures)
    assert card.data.get("license") is None and card.data.get("datasets") is None
    assert card.data.eval_results[0].metric_type == f"iou {name}"  # YAML keeps it as it is
    assert [line for line in card.text.splitlines() if line.startswith("#")] == [
        line for line in clean.text.splitlines() if line.startswith("#")
    ]
    (row,) = [line for line in card.text.splitlines() if line.startswith("| test |")]
    assert row.count("|") == 4 and not re.search(r"[<>\[\]`*_]", row)
    outside = re.sub(r"(`+)( ?).*?\2\1", "", card.text.split("## Use")[0])
    assert "<" not in outside and "](" not in outside


def test_usage_cannot_leave_its_block(folder):
    card = card_of(folder, usage='print("""\n```\n# Heading\n""")')
    assert "\n````python\n" in card.text


def test_commands(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/opt/job/train.py", "--a", "1", "--max_runs", "3", "--b", "--readme=x", "-c"])
    assert command_line() == "python scripts/train.py --a 1 --max_runs 3 --b --readme=x -c"
    assert command_line(without=("--max_runs", "--readme")) == "python scripts/train.py --a 1 --b"
    assert without_paths("C:\\Users\\me\\run") == "run" and without_paths("--x=user/name") == "--x=user/name"
    assert without_paths("sgd:/anyone/me/a.txt") == "sgd:a.txt" and without_paths("https://a.example/b") != "b"


def test_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "base").mkdir(parents=True)
    assert is_hub_id("user/name") and not is_hub_id("runs/base") and not is_hub_id("/user/name")
    assert not any(map(is_hub_id, (None, "", "name", "a/b/c", "../name", "a b/c")))
    assert public_name("runs/base") == "base" and public_name("digits") == "digits"
    assert public_name("user/name") == "user/name" and public_name(str(tmp_path / "gone")) == "gone"


def test_one_table_of_versions():
    assert package_versions()["python"] and "torch" in package_versions()
    assert not hasattr(model_card, "PACKAGES") and environment.PACKAGES
