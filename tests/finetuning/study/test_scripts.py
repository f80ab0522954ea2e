"""The scripts, launched as a user launches them, stopped and taken up again."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mona_peft.finetuning.data.sources.classification import DataConfig
from mona_peft.finetuning.data.sources.dense import ObjectDataConfig
from mona_peft.finetuning.study.ablations import ablation_variants
from mona_peft.finetuning.study.command import (
    FREE_FLAGS,
    AblateConfig,
    CompareConfig,
    command_line,
    make_plan,
    make_testbed,
    parse_study,
)
from mona_peft.finetuning.study.report import Results, markers, read_block
from mona_peft.finetuning.study.testbeds.recipes import ClassificationTestbed
from mona_peft.finetuning.study.testbeds.scenes import ScenesTestbed
from mona_peft.finetuning.study.variants import Variant
from mona_peft.finetuning.tasks.classification import ClassificationConfig
from mona_peft.finetuning.tasks.detection import DetectionConfig
from mona_peft.finetuning.training import TrainingConfig

SCRIPTS = Path(__file__).parents[3] / "scripts"


def launch(script, *arguments):
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True)


@pytest.mark.slow
def test_compare_stops_goes_on_and_reports(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("\n".join(markers()))
    common = ("--study_size", "tiny", "--study_dir", tmp_path / "study", "--methods", "full", "bitfit", "lorand")
    first = launch("compare.py", *common, "--max_runs", "5")
    assert "5 runs done, 7 known to be left" in first.stdout
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "study" / "runs").iterdir()}
    assert len(times) == 5
    results_dir = tmp_path / "results"
    launch("compare.py", *common, "--results_dir", results_dir, "--readme", readme)
    runs = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "study" / "runs").iterdir()}
    assert len(runs) == 12 and all(runs[name] == time for name, time in times.items())
    rows = list(csv.DictReader((results_dir / "results.csv").open()))
    assert {row["label"] for row in rows} == {"full", "bitfit", "lorand"} and {row["seeds"] for row in rows} == {"2"}
    results = Results.load(results_dir)
    assert results.command == "python scripts/compare.py --study_size tiny --methods full bitfit lorand"
    assert read_block(readme.read_text()) == results.summary().strip()
    again = launch("compare.py", *common, "--report_only")
    assert "runs done" not in again.stdout
    assert not list((tmp_path / "study" / "running").iterdir()), "folders of finished runs are gone"


@pytest.mark.slow
def test_a_run_does_not_depend_on_the_runs_before_it(tmp_path):
    arguments = ("--study_size", "tiny", "--seeds", "1", "--learning_rates", "0.01")
    launch("compare.py", *arguments, "--study_dir", tmp_path / "both", "--methods", "bitfit", "mona")
    # The same pretrained backbone, and Mona trained first.
    (tmp_path / "one").mkdir()
    (tmp_path / "both" / "prepared").rename(tmp_path / "one" / "prepared")
    launch("compare.py", *arguments, "--study_dir", tmp_path / "one", "--methods", "mona")
    both, one = (json.loads(next((tmp_path / d / "runs").glob("mona-*")).read_text()) for d in ("both", "one"))
    for figures in (both, one):
        for own in ("seconds", "created"):  # of the run, not of its result
            figures.pop(own)
    assert both == one


@pytest.mark.slow
def test_ablate_runs_its_groups(tmp_path):
    common = ("--study_size", "tiny", "--study_dir", tmp_path, "--seeds", "1", "--learning_rates", "0.01")
    output = launch("ablate.py", *common, "--groups", "design", "scale", "backbone", "--backbones", "small").stdout
    results = Results.load(tmp_path / "results")
    assert [row.label for row in results.rows] == [
        "mona",
        "design v1",
        "design v2",
        "design v3",
        "scalar scales",
        "small backbone, mona",
        "small backbone, full",
    ]
    assert results.reference == "mona" and "p against mona" in output
    counts = {row.label: row.backbone_trainable for row in results.rows}
    assert counts["design v1"] < counts["scalar scales"] < counts["mona"]
    assert counts["small backbone, mona"] < counts["mona"]
    assert (tmp_path / "results" / "settings.png").exists()


@pytest.mark.slow
def test_compare_takes_any_data_set(tmp_path):
    make = "import sys, pathlib; from mona_peft.finetuning.study.testbeds.digits import pretrain_swin as pretrain"
    make += "; pretrain(pathlib.Path(sys.argv[1]), 2)"
    subprocess.run([sys.executable, "-c", make, str(tmp_path / "base")], check=True)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"dataset: digits\nshots: 2\nmodel: {tmp_path / 'base' / 'model'}\n"
        "num_epochs: 1\nbatch_size: 10\nlearning_rate: 0.01\nreport_to: [none]\nprogress_bar: false\n"
    )
    options = '{"lora": {"r": 2}}'
    arguments = (recipe, "--study_dir", tmp_path / "study", "--methods", "lora", "fixed", "--seeds", "1")
    output = launch("compare.py", *arguments, "--variant_options", options).stdout
    records = [json.loads(path.read_text()) for path in (tmp_path / "study" / "runs").iterdir()]
    assert sorted(r["learning_rate"] for r in records if r["method"] == "lora") == [0.005, 0.01, 0.02]
    assert {json.dumps(r["options"]) for r in records if r["method"] == "lora"} == {'{"r": 2}'}
    assert "Digits, model; 1 seed;" in output


@pytest.mark.slow
def test_parameters_of_every_method_are_printed():
    output = launch("compare.py", "--parameters").stdout
    lines = [line for line in output.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in lines[2:-1]] == [
        "full",
        "fixed",
        "bitfit",
        "norm",
        "partial-1",
        "bottleneck",
        "lora",
        "adaptformer",
        "lorand",
        "mona",
    ]
    assert lines[0] == "| method | swin-tiny | swin-base | swin-large | vit-base |"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "architecture", "metric", "name"),
    [
        ("semantic_segmentation", "upernet", "mean_iou", "mean IoU"),
        ("detection", "conditional_detr", "box_ap", "box AP"),
        ("instance_segmentation", "mask2former", "mask_ap", "mask AP"),
    ],
)
def test_compare_takes_the_dense_scenes(tmp_path, task, architecture, metric, name):
    arguments = ("--study_size", "tiny", "--study_dir", tmp_path, "--seeds", "1", "--methods", "ssf")
    output = launch("compare.py", "--task", task, "--architecture", architecture, *arguments).stdout
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "runs").iterdir())
    assert record["test"][metric] == pytest.approx(Results.load(tmp_path / "results").rows[0].mean)
    assert f"{name}, mean ± std" in output


def test_the_task_decides_the_settings():
    study, compare, data, config, _ = parse_study(CompareConfig, ["--task=detection", "--methods", "mona"])
    assert (type(data), type(config)) == (ObjectDataConfig, DetectionConfig)
    testbed = make_testbed(study, data, config, TrainingConfig())
    assert isinstance(testbed, ScenesTestbed) and testbed.metric == "box_ap"
    assert make_plan(study, testbed, [Variant("mona", "mona")], TrainingConfig(), True).seeds == 3
    with pytest.raises(ValueError, match="num_epochs=5 would have no effect. Give --dataset"):
        make_testbed(study, data, config, TrainingConfig(num_epochs=5))
    _, _, data, config, _ = parse_study(AblateConfig, ["--dataset", "flowers102"])
    assert type(config) is ClassificationConfig and data.dataset == "flowers102"
    with pytest.raises(ValueError, match="Unknown task 'segmentation'; choose one of classification"):
        parse_study(CompareConfig, ["--task", "segmentation"])


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["--study_dir", "a", "--methods", "mona", "full"], ["--methods", "mona", "full"]),
        (["recipe.yaml", "--study_dir=a", "--report_only", "--seeds", "3"], ["recipe.yaml", "--seeds", "3"]),
        (["--report_only", "True", "--max_runs=2", "--readme", "R.md"], []),
        (["--study_size", "tiny", "--report_only"], ["--study_size", "tiny"]),
    ],
)
def test_the_command_of_results_says_what_makes_them(monkeypatch, words, kept):
    monkeypatch.setattr("sys.argv", ["/anywhere/scripts/compare.py", *words])
    assert command_line(FREE_FLAGS) == " ".join(["python scripts/compare.py", *kept])


def test_a_real_data_set_without_its_splits_is_refused(tmp_path):
    data, config = DataConfig(dataset="digits"), ClassificationConfig()
    testbed = ClassificationTestbed(data, config, TrainingConfig())
    splits = {"train": [1, 2, 3]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "mona_peft.finetuning.study.testbeds.recipes.load_data", lambda *_: SimpleNamespace(splits=splits)
        )
        with pytest.raises(ValueError, match="digits: A study trains on one split.*has only train. Name"):
            testbed.task(Variant("mona", "mona"), 0, tmp_path)


def test_unknown_groups_are_refused():
    with pytest.raises(ValueError, match="Unknown groups colour; choose from bottleneck"):
        ablation_variants(["design", "colour"])
