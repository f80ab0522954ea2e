"""`--tune`: trials on validation data alone, inside their time, taken up after a kill; the best one is trained."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from mona_peft.finetuning.commands.main import main
from mona_peft.finetuning.study.search_space import search_space
from mona_peft.finetuning.study.tuning import tune
from mona_peft.finetuning.study.tuning_config import TuneConfig
from mona_peft.finetuning.tasks.config import ClassificationConfig
from mona_peft.finetuning.training import TrainingConfig
from mona_peft.finetuning.training.run import run_task
from tests.finetuning.tasks.tiny_classifier import write_classifier
from tests.finetuning.training.toy import LineTask
from tests.support.photos import write_photos


class Watched(LineTask):
    """Counts what is asked of its splits."""

    asked: list[str] = []

    def dataset(self, split):
        self.asked.append(split)
        return super().dataset(split)


def line_training(folder, **changes):
    settings = {"num_epochs": 4, "batch_size": 8, "learning_rate": 1e-3, "cpu": True, "progress_bar": False}
    return TrainingConfig(output_dir=str(folder), report_to=["none"], **{**settings, **changes})


def search(folder, trials=6, minutes=5.0, make=lambda config: LineTask(), **changes):
    training = line_training(folder, **changes)
    return tune(make, ClassificationConfig(), training, TuneConfig(tune=minutes, tune_trials=trials))


def trials(folder):
    study = optuna.load_study(study_name="tuning", storage=f"sqlite:///{folder}/tuning/trials.db")
    return study.trials


def test_what_is_searched_of_each_method():
    assert search_space("mona", {}, 1e-3).choices == {
        "bottleneck_dim": [16, 32, 64, 128],
        "mona_dropout": [0.0, 0.1, 0.2, 0.3],
    }
    lora = search_space("lora", {"r": 2, "lora_dropout": 0.05}, 1e-3)
    assert lora.choices == {"r": [1, 2, 4], "lora_dropout": [0.0, 0.05, 0.1, 0.2, 0.3]}
    assert lora.first == {"learning_rate": 1e-3, "r": 2, "lora_dropout": 0.05}
    assert search_space("full", {}, 1e-4).choices == {}


def test_the_best_of_the_trials_is_trained_and_only_validation_judges(tmp_path, capsys):
    Watched.asked.clear()
    config, training = search(tmp_path / "run", make=lambda config: Watched())
    assert "test" not in Watched.asked and "validation" in Watched.asked
    found = trials(tmp_path / "run")
    assert len(found) == 6 and found[0].params == {"learning_rate": 1e-3, "bottleneck_dim": 64, "mona_dropout": 0.1}
    best = min((one for one in found if one.state.name == "COMPLETE"), key=lambda one: one.value)
    assert best.value < found[0].value  # a search that helps
    assert training.learning_rate == best.params["learning_rate"]
    assert config.method_options == {name: best.params[name] for name in ("bottleneck_dim", "mona_dropout")}
    figures = run_task(LineTask(), training)
    assert figures["best_error"] == pytest.approx(best.value, rel=1e-6)  # the run is the trial over again
    said = capsys.readouterr().out
    assert f"Best is trial {best.number}, error" in said and "validation error" in said
    rows = list(csv.DictReader((tmp_path / "run" / "tuning" / "trials.csv").open()))
    assert [float(row["learning_rate"]) for row in rows] == [one.params["learning_rate"] for one in found]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["learning_rate"] == training.learning_rate
    again = search(tmp_path / "run", trials=9, resume=True)  # the best setting trains already: nothing more is tried
    assert again[1].learning_rate == training.learning_rate and len(trials(tmp_path / "run")) == 6
    with pytest.raises(FileExistsError, match="holds a run already"):
        search(tmp_path / "run")
    search(tmp_path / "run", trials=1, overwrite_output_dir=True)
    assert len(trials(tmp_path / "run")) == 1


@pytest.mark.slow
def test_worse_trials_are_pruned_and_time_ends_the_search(tmp_path, monkeypatch):
    search(tmp_path / "pruned", trials=12, num_epochs=8)
    ends = [one.state.name for one in trials(tmp_path / "pruned")]
    assert ends.count("PRUNED") >= 2 and ends[:3] == ["COMPLETE"] * 3
    config, training = search(tmp_path / "short", trials=None, minutes=0.02, num_epochs=20_000)
    (only,) = trials(tmp_path / "short")
    assert only.user_attrs["end"] == "out of time" and only.user_attrs["seconds"] < 5
    assert training.learning_rate == 1e-3  # nothing was finished: as it was
    search(tmp_path / "short", trials=None, minutes=0.02, num_epochs=20_000, resume=True)
    assert len(trials(tmp_path / "short")) == 1  # the time was spent before


KILLED = """
import os, signal, sys
from tests.finetuning.study import test_tuning
class Killed(test_tuning.LineTask):
    made = 0
    def meter(self, split):
        if Killed.made > 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().meter(split)
def make(config):
    Killed.made += 1
    return Killed()
test_tuning.search(sys.argv[1], trials=4, make=make)
"""


@pytest.mark.slow
def test_a_killed_search_goes_on(tmp_path):
    folder = tmp_path / "run"
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    before = trials(folder)
    assert [one.state.name for one in before] == ["COMPLETE", "RUNNING"]
    with pytest.raises(ValueError, match="num_epochs"):
        search(folder, trials=4, resume=True, num_epochs=5)
    search(folder, trials=4, resume=True)
    after = trials(folder)
    assert after[0].value == before[0].value and after[1].state.name == "FAIL"
    assert after[2].params == before[1].params  # it is tried again, from its start
    assert sum(one.state.name in ("COMPLETE", "PRUNED") for one in after) == 4


def test_a_command_that_tunes(tmp_path, capfd):
    photos = write_photos(tmp_path / "photos", each=4)
    write_classifier(tmp_path / "base")
    flags = ["--dataset", str(photos), "--model", str(tmp_path / "base"), "--output_dir", str(tmp_path / "run")]
    flags += ["--max_steps", "2", "--batch_size", "4", "--cpu", "--report_to", "none", "--image_size", "32"]
    flags += ["--method_options", '{"bottleneck_dim": 4}', "--tune", "5", "--tune_trials", "3"]
    assert main(["train", "classification", *flags, "--validation_fraction", "0"]) == 1
    assert "the data has none: give --validation_fraction 0.1" in capfd.readouterr().err
    assert main(["train", "classification", *flags]) == 0, capfd.readouterr().err
    assert "Best is trial" in capfd.readouterr().out
    saved = json.loads((tmp_path / "run" / "model" / "adapter_config.json").read_text())
    study = optuna.load_study(study_name="tuning", storage=f"sqlite:///{tmp_path}/run/tuning/trials.db")
    assert saved["bottleneck_dim"] == study.best_params["bottleneck_dim"]
    assert main(["train", "classification", *flags, "--resume"]) == 0, capfd.readouterr().err


def test_what_tuning_needs_is_said_in_a_line(tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "optuna", None)
    photos = write_photos(tmp_path / "photos", each=1)
    assert main(["train", "classification", "--dataset", str(photos), "--tune", "1", "--output_dir", "run"]) == 1
    assert "--tune needs Optuna, which is not installed: pip install optuna" in capfd.readouterr().err
    with pytest.raises(ValueError, match="tune_trials is 3, but nothing is searched"):
        TuneConfig(tune_trials=3)
    monkeypatch.undo()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="--tune searches in one process"):
        search(tmp_path / "run")
