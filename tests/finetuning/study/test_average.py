"""The average over data sets: of made-up studies, and of the paper's three sets in their official archives."""

import csv
import json
from statistics import mean

import pytest

from mona_peft.finetuning.commands.main import run
from mona_peft.finetuning.study.average import split_titles
from mona_peft.finetuning.study.report import Results
from mona_peft.finetuning.study.table import make_rows
from tests.finetuning.official_layouts import LAYOUTS, tiny_flags
from tests.finetuning.study.fakes import record
from tests.finetuning.tasks.tiny_dense import write_swin

FIGURES = {"flowers": {"full": (0.90, 0.92), "mona": (0.95, 0.97)}, "pets": {"mona": (0.9, 0.9), "full": (0.99, 0.97)}}


def write_study(folder, title, figures, metric="accuracy"):
    runs = [
        record(label, 0.1, seed, 0.5, value) for label, values in figures.items() for seed, value in enumerate(values)
    ]
    results = Results(title, "mona-peft compare", metric, "full", {}, {"torch": "2"}, make_rows(runs))
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results.to_json()))
    return str(folder)


@pytest.fixture
def folders(tmp_path):
    return [write_study(tmp_path / name, f"{name}, swin", figures) for name, figures in FIGURES.items()]


def test_the_best_average_comes_first_and_what_a_set_lacks_has_none(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["mona-peft", "average", "--folders", *folders, "--results_dir", "out"])
    write_study(tmp_path / "pets", "pets, swin", {**FIGURES["pets"], "lora": (1.0, 1.0)})
    rows = run("average", "--folders", *folders, "--results_dir", str(tmp_path / "out"))
    assert [row.label for row in rows] == ["full", "mona", "lora"]
    assert rows[0].average == pytest.approx((0.91 + 0.98) / 2) and rows[1].average == pytest.approx((0.96 + 0.9) / 2)
    assert rows[2].average is None
    table = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert table[2:4] == ["|  | flowers | pets | average |", "| --- | ---: | ---: | ---: |"]
    assert table[4] == "| full | 91.0% ± 1.4 | 98.0% ± 1.4 | 94.5% |" and table[6] == "| lora |  | 100.0% ± 0.0 |  |"
    assert table[0].startswith("Accuracy (swin), mean ± std; 2 seeds; rates chosen on: flowers: the validation")
    written = json.loads((tmp_path / "out" / "average.json").read_text())
    assert written["versions"]["torch"] and written["command"] == "mona-peft average --folders flowers pets"
    assert [one["command"] for one in written["sets"]] == ["mona-peft compare"] * 2
    lines = list(csv.DictReader((tmp_path / "out" / "average.csv").open()))
    assert float(lines[0]["average"]) == rows[0].average and lines[2]["average"] == ""


def test_titles_of_columns():
    assert split_titles(["a, swin", "b, swin"]) == (["a", "b"], "swin")
    assert split_titles(["a, swin", "b, vit"]) == (["a, swin", "b, vit"], "")


def test_what_has_no_average_is_refused(folders, tmp_path):
    other = write_study(tmp_path / "voc", "voc, swin", FIGURES["pets"], "mean average precision")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "results.json").write_text('{"title": "x"}')
    for given, message in (
        (folders[:1], "1 folder of results was given"),
        ([folders[0], str(tmp_path / "none")], "There is no results.json in .*none"),
        ([folders[0], folders[0]], r"Two folders hold results on the same data \(flowers, swin\)"),
        ([folders[0], other], "different metrics .accuracy, mean average precision"),
        ([folders[0], str(tmp_path / "damaged")], "damaged/results.json is no result of mona-peft compare"),
    ):
        with pytest.raises(ValueError, match=message):
            run("average", "--folders", *given, "--results_dir", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_papers_three_classification_sets(tmp_path):
    """By their recipes, on archives in the official layout: each compared, then averaged; top 5 from the same runs."""
    write_swin(tmp_path / "swin")
    sets, figures = ("flowers102", "oxford_pets", "voc2007"), ("accuracy", "top5_accuracy")
    folders = {metric: [] for metric in figures}
    for name in sets:
        (tmp_path / name).mkdir()
        LAYOUTS[name][0](tmp_path / name)
        recipe = f"swin-large-{name.replace('_', '-')}"
        words = [recipe, *tiny_flags(name, tmp_path / name, tmp_path / "swin", None), "--batch_size", "1"]
        words += ["--study_dir", str(tmp_path / "study" / name), "--methods", "full", "mona", "--held_out", "0.5"]
        words += ["--learning_rates", "0.001", "--seeds", "1", "--variant_options", '{"mona": {"bottleneck_dim": 4}}']
        for metric in figures if name != "oxford_pets" else figures[:1]:
            folders[metric].append(str(tmp_path / "results" / f"{name}-{metric}"))
            more = ["--report_only"] if metric == "top5_accuracy" else []
            run("compare", *words, "--metric", metric, "--results_dir", folders[metric][-1], *more)
    for metric, columns in folders.items():
        rows = run("average", "--folders", *columns, "--results_dir", str(tmp_path / metric))
        assert {row.label for row in rows} == {"full", "mona"}
        for row in rows:
            runs = [
                json.loads(next((tmp_path / "study" / name / "runs").glob(f"{row.label}-*")).read_text())
                for name in sets[:: 1 if metric == "accuracy" else 2]
            ]
            assert row.average == pytest.approx(mean(one["test"][metric] for one in runs))
    text = (tmp_path / "accuracy" / "table.md").read_text()
    assert "|  | flowers102 | oxford\\_pets | voc2007 | average |" in text
    assert "flowers102: the validation split; oxford\\_pets: 1 of 2 training images, held out" in text
    with pytest.raises(ValueError, match="no metric 'map'; choose one of .*accuracy, top5_accuracy"):
        run("compare", *words, "--metric", "map", "--report_only")
