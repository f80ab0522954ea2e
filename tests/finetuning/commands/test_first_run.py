"""From a folder of photos to a trained adapter and to predictions, by the command alone."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import mona_peft
from mona_peft.finetuning.commands.main import main
from tests.finetuning.tasks.tiny_classifier import write_classifier
from tests.support.photos import write_photos

QUICK = ("--num_epochs", "2", "--batch_size", "8", "--cpu", "--report_to", "none")
HERE = Path(__file__).parents[3]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder to work in, with photos and a small pretrained model."""
    write_photos(tmp_path / "photos")
    write_classifier(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/mona-peft", "train", "classification", "--dataset", "photos"])
    return tmp_path


def test_photos_to_adapter_to_predictions(place, capfd):
    """The whole way, with nothing given but data and model."""
    assert main(["train", "classification", "--dataset", "photos", "--model", "base", *QUICK]) == 0
    said = capfd.readouterr()
    assert "No validation split: 3 of the 18 training images are held out" in said.out
    assert "the usual for mona: --learning_rate 0.001\n" in said.out
    assert "Everything goes to outputs/photos-mona" in said.out
    lines = [line for line in said.out.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2 and all(" loss " in line and " accuracy " in line and " best " in line for line in lines)
    run = place / "outputs" / "photos-mona"
    figures = json.loads((run / "metrics.json").read_text())
    assert figures["validation"]["num_samples"] == 3
    for name in ("model", "curves.png", "mistakes_validation.png", "metrics.json"):
        assert (run / name).exists() and f"outputs/photos-mona/{name}" in said.out
    assert "mona-peft predict --model outputs/photos-mona/model --images FILE_OR_FOLDER" in said.out
    assert "not sharded" not in said.err and "Traceback" not in said.err and "LOAD REPORT" not in said.err
    assert "mona-peft train classification --dataset photos" in (run / "model" / "README.md").read_text()

    flags = ["--model", "outputs/photos-mona/model", "--images", "photos/red", "--output", "labels.csv", "--cpu"]
    assert main(["predict", *flags]) == 0
    rows = list(csv.DictReader((place / "labels.csv").open()))
    assert len(rows) == 6 and {row["label"] for row in rows} <= {"red", "green", "blue"}

    # A second run gets a folder of its own, and the first one stays.
    before = (run / "model" / "adapter_model.safetensors").read_bytes()
    flags = ["--dataset", "photos", "--model", "base", "--validation_fraction", "0", "--max_steps", "1", "--cpu"]
    assert main(["train", "classification", *flags]) == 0
    assert "held out" not in capfd.readouterr().out
    assert "validation" not in json.loads((place / "outputs" / "photos-mona-2" / "metrics.json").read_text())
    assert (run / "model" / "adapter_model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_the_module_is_the_command(place):
    """Launched for real, on photos that come with a validation split."""
    write_photos(place / "split" / "train", each=3)
    write_photos(place / "split" / "validation", each=2)
    command = [sys.executable, "-m", "mona_peft", "train", "classification", "--dataset", "split", "--model", "base"]
    environment = {**os.environ, "PYTHONPATH": str(HERE / "src"), "OMP_NUM_THREADS": "1"}
    command += [*QUICK, "--image_size", "64", "--output_dir", "run"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "held out" not in done.stdout and "epoch 2 " in done.stdout
    loaded = mona_peft.load("run/model")
    assert loaded.prepare(Image.new("RGB", (100, 90))).shape == (1, 3, 64, 64)
    assert len(loaded.model.get_base_model().config.id2label) == 3


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--dataset", "./holiday", "--model", "base"], 1, "The folder ./holiday does not exist."),
        (
            ["--dataset", "holiday", "--model", "base"],
            1,
            "There is no folder holiday here, and no data set of that name",
        ),
        (["--dataset", "photos", "--model", "./bass"], 1, "The model folder ./bass does not exist."),
        (
            ["--dataset", "photos", "--model", "user/bass"],
            1,
            "There is no folder user/bass here, and no model of that",
        ),
        (["--dataset", "photos", "--model", "photos"], 1, "The folder photos holds no model"),
        (["--dataset", "photos", "--method", "monna"], 2, "Unknown method 'monna'; choose one of adaptformer, bitfit"),
        (["--dataset", "photos", "--batch_size", "0"], 2, "batch_size is '0'; it must be a whole number, at least 1"),
        (["--dataset", "photos", "--resume"], 1, "--resume goes on in a folder: name it with --output_dir"),
        (["no-such-recipe"], 2, "There is no recipe 'no-such-recipe'; give a YAML file, or one of swin-base"),
    ],
)
def test_errors_are_one_line(place, capfd, words, code, message):
    assert main(["train", "classification", *words]) == code
    said = capfd.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert message in line and "Traceback" not in said


def test_an_unreadable_picture_is_named_in_one_line(place, capfd):
    (place / "photos" / "red" / "0.jpg").write_bytes(b"no picture")
    assert main(["train", "classification", "--dataset", "photos", "--model", "base", *QUICK]) == 1
    said = capfd.readouterr().err
    assert "0.jpg" in said and "--skip_bad_images" in said and "Traceback" not in said
    with pytest.raises(ValueError, match=r"0\.jpg"):
        main(["train", "classification", "--dataset", "photos", "--model", "base", *QUICK, "--debug"])


def test_a_loss_that_is_not_finite_is_one_line(place, capfd):
    flags = ["--learning_rate", "1e30", "--max_grad_norm", "none", "--method", "full", *QUICK]
    assert main(["train", "classification", "--dataset", "photos", "--model", "base", *flags]) == 1
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("Error: ")]
    assert "not finite" in line or "The loss is nan" in line
    assert "learning_rate" in line
