"""The demo at its smallest, launched as a user launches it, and what it shares with studies."""

import json
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from mona_peft.finetuning.study import demo
from mona_peft.finetuning.study.demo import demo_row, format_rows, run_demo, run_dense_demo
from mona_peft.finetuning.study.plan import Plan
from mona_peft.finetuning.study.records import RunKey
from mona_peft.finetuning.study.variants import Variant
from tests.finetuning.study.fakes import FakeStudy, record

SCRIPT = Path(__file__).parents[3] / "scripts" / "train_classification.py"


@pytest.mark.slow
def test_demo_runs_and_reloads_its_adapter(tmp_path):
    command = [sys.executable, str(SCRIPT), "--demo_size", "tiny", "--demo_dir", str(tmp_path / "demo")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for method in ("mona", "fixed", "full"):
        assert re.search(rf"^{method} +\S+ +[\d,]+ +325 +\d+\.\d% ± \d+\.\d", output, re.MULTILINE)
    before, after = re.search(r"when it was trained: (\S+); loaded again in a new process: (\S+)", output).groups()
    assert before == after
    adapter = Path(re.search(r"The Mona adapter is in (\S+)", output).group(1))
    assert {"adapter_config.json", "adapter_model.safetensors", "config.json", "preprocessor_config.json"} <= {
        path.name for path in adapter.iterdir()
    }


def test_unknown_size_is_refused():
    with pytest.raises(ValueError, match=r"Unknown demo size 'huge'.*tiny"):
        run_demo("huge", Path("unused"))


def test_results_of_the_sizes_stand_side_by_side(tmp_path, monkeypatch):
    for name in ("_study", "_run", "_reload", "draw_predictions"):
        monkeypatch.setattr(demo, name, Mock(return_value=Mock()))
    demo._run.return_value, demo._reload.return_value = ([], {"mona": [None]}), {}
    for size in ("full", "tiny"):
        run_demo(size, tmp_path)
        run_dense_demo("detection", "retinanet", size, tmp_path)
    names = {"digits.json", "digits-tiny.json", "retinanet.json", "retinanet-tiny.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert json.loads((tmp_path / "retinanet-tiny.json").read_text())["pictures"].endswith("retinanet-tiny.png")


def test_a_row_is_of_the_runs_at_the_chosen_rate():
    runs = [record("mona", 3e-3, seed, 0.5, test, seconds=2.0 + seed) for seed, test in enumerate((0.25, 0.75))]
    row = demo_row(runs, "accuracy")
    assert (row["test"], row["seconds"], row["backbone_trainable"]) == ([0.25, 0.75], 2.5, 10)
    header, _, line = format_rows([row]).splitlines()
    assert "test accuracy" in header and re.fullmatch(r"mona +3e-03 +10 +0 +50\.0% ± 35\.4 +2\.5 +0 kB", line)
    assert len(header) == len(line)
    assert demo_row(runs, "box_ap")["test"] == [0.0, 0.0], "a metric that is not defined is left out of records"


def test_models_stay_where_a_study_keeps_them(tmp_path):
    """By run, and apart from those of a study that deletes them, whose processes must not meet."""
    plan, key = Plan((Variant("mona", "mona"),), (0.1,), 1), RunKey("mona", 0.1, 0)
    study = FakeStudy(plan, tmp_path / "a", None)
    assert study.run_folder(key).parent == tmp_path / "a" / "running"
    study.keep_models = True
    assert study.model(record("mona", 0.1, 0, 0.5, 0.5)) == tmp_path / "a" / "models" / "mona-lr0.1-seed0" / "model"


def test_studies_do_not_stand_on_demos():
    folder = Path(__file__).parents[3] / "src" / "mona_peft" / "finetuning" / "study"
    importing = {
        path.name for path in folder.rglob("*.py") if re.search(r"import.*demo|from .*demo", path.read_text())
    }
    assert importing <= {"demo.py", "documents.py"}  # documents show the tables of demos, too
