"""The committed results agree with themselves."""

import csv
import json
import re
from pathlib import Path

import pytest
from peft import get_peft_model
from transformers import ViTConfig, ViTModel

from mona_peft import MonaConfig
from mona_peft.finetuning.methods import METHODS
from mona_peft.finetuning.study.ablations import ablation_variants
from mona_peft.finetuning.study.citations import refresh_citations
from mona_peft.finetuning.study.command import DIGITS_FULL_RATE, DIGITS_MONA_RATE
from mona_peft.finetuning.study.records import RECORDS_FILE, read_lines
from mona_peft.finetuning.study.report import Results, read_block, to_html
from mona_peft.finetuning.study.table import find_unfinished, make_rows, sort_rows
from mona_peft.finetuning.study.testbeds.digits import DIGITS_OPTIONS, STUDY_SIZES, SWIN_WIDTHS
from mona_peft.finetuning.study.testbeds.real import FEW_STEPS
from mona_peft.finetuning.study.testbeds.scenes import SIZES, ScenesTestbed
from mona_peft.finetuning.study.variants import PAPER_METHODS
from mona_peft.tuners.mona.module import Mona
from tests.finetuning.study.fakes import record

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "results"
SCENES = "scenes-semantic_segmentation"
REAL = "clipart-10"
FOLDERS = sorted(path.parent.name for path in RESULTS.glob("*/results.json"))


@pytest.mark.parametrize("name", FOLDERS)
def test_table_csv_and_report_are_made_from_the_same_results(name):
    results = Results.load(RESULTS / name)
    assert (RESULTS / name / "table.md").read_text(encoding="utf-8") == results.summary() + "\n"
    rows = list(csv.DictReader((RESULTS / name / "results.csv").open(encoding="utf-8")))
    assert [(row["label"], float(row["mean"])) for row in rows] == [(row.label, row.mean) for row in results.rows]
    images = {p.stem: p.read_bytes() for p in (RESULTS / name).glob("*.png")}
    order = ("settings", "parameters", "losses", "seconds", "memory", "rates", "curves")
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


@pytest.mark.parametrize(("group", "settings"), [("dropout", [0.0, 0.3]), ("depth", [3, 6])])
def test_settings_that_the_paper_does_not_study_are_asked_for_by_name(group, settings):
    _, *asked = ablation_variants([group])
    assert not {one.label for one in asked} & {one.label for one in ablation_variants()}
    vit = ViTConfig(hidden_size=16, num_hidden_layers=8, num_attention_heads=2, image_size=32, patch_size=8)
    for variant, setting in zip(asked, settings, strict=True):
        model = get_peft_model(ViTModel(vit), MonaConfig(**variant.options))
        adapters = [module for module in model.modules() if isinstance(module, Mona)]
        assert len(adapters) == 2 * (setting if group == "depth" else 8)
        assert {one.dropout.p for one in adapters} == {setting if group == "dropout" else 0.1}


def test_a_table_can_leave_the_test_split_unseen():
    records = [record("mona", 0.1, seed, validation, 0.5) for seed, validation in ((0, 0.7), (1, 0.9))]
    (row,) = make_rows(records, metric="validation")
    assert (row.mean, row.low) == (pytest.approx(0.8), pytest.approx(0.7)) and make_rows(records)[0].mean == 0.5


def test_the_page_on_choosing_quotes_the_committed_figures():
    page = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
    quoted = [name for name in FOLDERS if re.search(rf"\({name}:\s", page)]
    real = ["clipart", REAL, f"{REAL}-ablations", "cutouts-detection", "cutouts-semantic_segmentation"]
    digits, emoji = ["digits", "digits-ablations", "digits-stream"], ["emoji", "emoji-10", "emoji-10-ablations"]
    assert quoted == [*real, *digits, *emoji, SCENES]
    assert refresh_citations(page, RESULTS) == page, (
        "docs/choosing.md quotes other figures than results/ has; `mona-peft compare ... --report_only --readme "
        "docs/choosing.md` puts them right. Then read whether the sentences still hold."
    )
    assert read_block(page, f"results-{REAL}") == Results.load(RESULTS / REAL).summary().strip()


def test_the_rates_that_commands_start_from_are_those_that_the_study_chose():
    """LoRA's is that of rank 64, the default."""
    rows = {row.label.replace("lora64", "lora"): row for row in Results.load(RESULTS / REAL).rows}
    rates = {method: rows[method].learning_rate for method in set(rows) & set(METHODS)}
    assert len(rates) == 10 and not any(row.at_grid_end for row in rows.values())
    assert {method: METHODS[method].learning_rate for method in rates} == rates


def test_the_study_on_real_pictures_is_made_of_its_committed_runs():
    results, records = Results.load(RESULTS / REAL), read_lines(RESULTS / REAL / RECORDS_FILE)
    left = {one.label: one.left for one in results.unfinished}
    searched = results.settings["plan"]["search_seeds"]
    finished = [record for record in records if record.label not in left]
    assert sort_rows(make_rows(finished, searched=searched)) == results.rows
    assert sorted(find_unfinished(records, left, searched=searched), key=str) == sorted(results.unfinished, key=str)
    ended = [record.validations[-1][0] for record in records if not record.diverged]
    assert set(ended) == {FEW_STEPS} and len(ended) > len(records) - 3, "the same budget for all"
    by_seed = {(record.seed, record.data) for record in records}
    assert len(by_seed) == len({seed for seed, _ in by_seed}), "all methods have the pictures that the seed drew"
    assert not any(row.at_grid_end for row in results.rows), "nobody sits at the end of its grid"


def test_citations_follow_their_results(tmp_path):
    rows = make_rows([record("mona", 0.1, seed, 0.9, 0.5 + seed / 10) for seed in (0, 1)])
    rows += make_rows([record("kernels 3+5", 0.1, 0, 0.9, 0.25)])
    results = Results("title", "command", "accuracy", "full", {}, {}, rows)
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "results.json").write_text(json.dumps(results.to_json()))
    text = "Best (small: mona 1 ± 0,\n  kernels 3+5 99.9 ± 0.12), not (other: mona 1.0 ± 0.0)."
    expected = "Best (small: mona 55.0 ± 7.1,\n  kernels 3+5 25.0 ± 0.0), not (other: mona 1.0 ± 0.0)."
    assert refresh_citations(text, tmp_path) == expected
    with pytest.raises(ValueError, match="cites 'lora'; .* has mona, kernels 3"):
        refresh_citations("(small: lora 1.0 ± 0.0)", tmp_path)
    with pytest.raises(ValueError, match="cites two folders"):
        refresh_citations("(small: mona 1.0 ± 0.0; other: mona 2.0 ± 0.0)", tmp_path)
