"""The tables of documents are those of the files under results/, and these say what made them."""

import json
from pathlib import Path

import pytest

from mona_peft.finetuning.costs.config import CostsConfig
from mona_peft.finetuning.costs.report import sentence, table
from mona_peft.finetuning.costs.suite import Row, StartUp, Timing, as_json
from mona_peft.finetuning.study.documents import demo_table, dense_demo_table, fill, shown, tables
from mona_peft.finetuning.study.testbeds.scene_models import MODELS

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "results"
#: The files that a program wrote before it put all of it into them say so, by what they say: what they have.
EARLIER = {"made before command and versions were recorded": (), "made before the command was recorded": ("versions",)}
#: Nothing but these may be of before.
OLD_FILES = {"benchmark/scaling.json", *(f"demo-dense/{name}.json" for name in MODELS)}


DOCUMENTS = ["README.md", "docs/choosing.md", "docs/results.md", "docs/performance.md", "docs/serving.md"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_show_what_the_files_say(name):
    document = (ROOT / name).read_text(encoding="utf-8")
    assert shown(document, tables(RESULTS))
    assert fill(document, tables(RESULTS)) == document, f"run `python scripts/fill_tables.py {name}`"


def test_every_table_is_shown():
    found = tables(RESULTS)
    assert set().union(*(shown((ROOT / name).read_text(encoding="utf-8"), found) for name in DOCUMENTS)) == set(found)


def files():
    """Every committed file of figures; the losses of a study belong to the results next to them."""
    return sorted(path for path in RESULTS.rglob("*.json") if path.name != "losses.json")


def check_origin(result, parts=("versions", "command")):
    if "versions" in parts:
        assert result["versions"]["torch"] and result["versions"]["mona-peft"]
    if "command" in parts:
        assert result["command"].startswith(("python scripts/", "mona-peft ", "python -m mona_peft "))


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(RESULTS)))
def test_every_result_says_what_made_it(path):
    result = json.loads(path.read_text(encoding="utf-8"))
    if "note" in result:
        assert str(path.relative_to(RESULTS)) in OLD_FILES and "command" not in result, "only those of before"
        check_origin(result, EARLIER[result["note"]])
    elif path.parent.name == "method_comparison":  # in the schema of PEFT's folder of that name
        versions = result["meta_info"]["package_info"]
        assert versions["torch-version"] and versions["mona-peft-version"] and result["run_info"]["experiment_name"]
    elif path.name == "scaling.json":
        for one in (one for series in result.values() for one in series):
            check_origin(one)
    else:
        check_origin(result)


def test_every_folder_of_results_has_a_file_that_says_it():
    checked = {path.parent for path in files()}
    assert {folder for folder in RESULTS.iterdir() if folder.is_dir()} <= checked


def floats(value):
    """All floats of a JSON value."""
    if isinstance(value, dict | list):
        return [each for one in (value.values() if isinstance(value, dict) else value) for each in floats(one)]
    return [value] if isinstance(value, float) else []


ROWS = [
    (path, number)
    for path in files()
    if path.name != "serving.json"  # its program rounds times of the processor to what they are good for
    for number in range(len(json.loads(path.read_text(encoding="utf-8")).get("rows", [])))
]


@pytest.mark.parametrize(("path", "number"), ROWS, ids=lambda value: getattr(value, "parent", value))
def test_no_figure_was_typed(path, number):
    """The programs write floats as they are: a row of nothing but four digits was copied from a log."""
    row = json.loads(path.read_text(encoding="utf-8"))["rows"][number]
    figures = row["test"] if "test" in row else {name: value for name, value in row.items() if name != "learning_rate"}
    assert max(len(repr(value)) for value in floats(figures)) > 10, row


def test_a_figure_that_changes_changes_the_table():
    rows = [
        {"method": "mona", "metric": "box_ap", "test": [0.1, 0.3]},
        {"method": "fixed", "metric": "box_ap", "test": [0.25, 0.25]},
    ]
    line = dense_demo_table([{"architecture": "detr", "rows": rows}]).splitlines()[-1]
    assert line == "| DETR on ViT, box AP | 20.0 ± 14.1 | 25.0 ± 0.0 | not measured |"
    row = {"method": "full", "backbone_trainable": 1234, "test": [0.5, 0.5], "bytes_on_disk": 2500}
    text = demo_table({"command": "mona-peft demo", "rows": [row]})
    assert "`mona-peft demo`" in text and text.endswith("| full fine-tuning | 1,234 | 50.0 ± 0.0 | 2 kB |")
    document = "a\n<!-- demo:begin -->\nold\n<!-- demo:end -->\nb"
    assert fill(document, {"demo": text, "other": "x"}) == document.replace("old", text)


def test_costs_are_read_back_from_their_file(tmp_path):
    timing = Timing(0.5, 0.4, 0.6, 1.0)
    rows = [
        Row("floor", timing, 10**6, None, None, None, 3),
        Row("mona", timing, 10**6, 5, timing, StartUp(1, 2, 3), 4),
    ]
    config = CostsConfig(methods=["mona"])
    results = json.loads(json.dumps(as_json(config, rows)))
    assert results["command"] and results["versions"]["torch"]
    (tmp_path / "benchmark" / "swin-b").mkdir(parents=True)
    (tmp_path / "benchmark" / "swin-b" / "benchmark.json").write_text(json.dumps(results))
    for folder in ("digits", "demo-dense"):
        (tmp_path / folder).symlink_to(RESULTS / folder)
    text = tables(tmp_path)["benchmark-swin-b"]
    assert table(rows) in text and results["machine"]["cpu"] in text and results["command"] in text


def test_costs_are_told_in_a_sentence():
    ratios = {"floor": 1.0, "lora": 1.1, "full": 1.5, "mona": 1.2}
    rows = [
        Row(name, Timing(1, 1, 1, ratio), int(10**6 * ratio), None, None, None, 3) for name, ratio in ratios.items()
    ]
    results = json.loads(json.dumps(as_json(CostsConfig(model="swin-b", batch_size=4), rows)))
    text = sentence(results)
    assert "Mona takes 1.20 of that time and 1.20 of that memory" in text
    assert "full fine-tuning takes 1.50" in text
    assert "swin-b, 224 px, batch 4" in text
