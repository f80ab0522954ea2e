"""The committed results agree with themselves and with the tables in the README and the pages."""

import csv
import json
from pathlib import Path

import pytest

from mona_peft.finetuning.methods import METHODS
from mona_peft.finetuning.study.ablations import ablation_variants
from mona_peft.finetuning.study.command import DIGITS_FULL_RATE, DIGITS_MONA_RATE
from mona_peft.finetuning.study.report import Results, read_block, to_html
from mona_peft.finetuning.study.testbeds.digits import DIGITS_OPTIONS, STUDY_SIZES, SWIN_WIDTHS
from mona_peft.finetuning.study.testbeds.scenes import SIZES, ScenesTestbed
from mona_peft.finetuning.study.variants import PAPER_METHODS

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "results"
SCENES = "scenes-semantic_segmentation"
FOLDERS = ("digits", "digits-ablations", SCENES)


@pytest.mark.parametrize("name", FOLDERS)
def test_table_csv_and_report_are_made_from_the_same_results(name):
    results = Results.load(RESULTS / name)
    assert (RESULTS / name / "table.md").read_text(encoding="utf-8") == results.summary() + "\n"
    rows = list(csv.DictReader((RESULTS / name / "results.csv").open(encoding="utf-8")))
    assert [(row["label"], float(row["mean"])) for row in rows] == [(row.label, row.mean) for row in results.rows]
    images = {p.stem: p.read_bytes() for p in (RESULTS / name).glob("*.png")}
    order = ("settings", "parameters", "losses", "seconds", "memory")
    report = (RESULTS / name / "report.html").read_text(encoding="utf-8")
    assert report == to_html(results, {key: images[key] for key in order if key in images})


def test_the_comparison_has_every_method_at_its_full_size():
    results = Results.load(RESULTS / "digits")
    assert {row.label for row in results.rows} == set(METHODS)
    assert {row.seeds for row in results.rows} == {STUDY_SIZES["full"].seeds}
    options = {v["label"]: v["options"] for v in results.settings["plan"]["variants"]}
    assert options == {method: DIGITS_OPTIONS.get(method, {}) for method in METHODS}
    assert results.versions["torch"] and results.command.startswith("python scripts/compare.py")


def test_the_comparison_on_scenes_has_every_method_of_the_paper_at_its_full_size():
    results, size = Results.load(RESULTS / SCENES), SIZES["full"]
    assert {row.label for row in results.rows} == set(PAPER_METHODS)
    assert {row.seeds for row in results.rows} == {size.seeds}
    testbed = ScenesTestbed("semantic_segmentation", "upernet", size).describe()
    assert results.settings["benchmark"] == json.loads(json.dumps(testbed))


def test_the_ablations_are_at_one_rate_each():
    for row in Results.load(RESULTS / "digits-ablations").rows:
        assert row.learning_rate == (DIGITS_FULL_RATE if row.label.endswith("full") else DIGITS_MONA_RATE)


def test_the_ablations_have_every_setting():
    results = Results.load(RESULTS / "digits-ablations")
    variants = ablation_variants(bottleneck_dim=16, bottlenecks=(4, 8, 32), backbones=tuple(SWIN_WIDTHS))
    assert [row.label for row in results.rows] == [variant.label for variant in variants]


@pytest.mark.parametrize(
    ("name", "page", "block", "command"),
    [
        ("digits", "README.md", "results", f"--methods {' '.join(METHODS)}"),
        (SCENES, "docs/results.md", "results-semantic_segmentation", "--task semantic_segmentation"),
    ],
)
def test_pages_show_the_committed_table(name, page, block, command):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert read_block(text, block) == Results.load(RESULTS / name).summary().strip(), (
        f"The table in {page} is not that of results/{name}; run "
        f"`python scripts/compare.py {command} --report_only --results_dir results/{name} --readme {page}`."
    )
