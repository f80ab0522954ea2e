"""The study on real pictures and a real backbone, here on small ones of the same form."""

import json

import numpy as np
import pytest
from PIL import Image

from mona_peft.finetuning.study.command import CompareConfig, parse_study, run_comparison
from mona_peft.finetuning.study.records import RECORDS_FILE
from mona_peft.finetuning.study.report import Results
from mona_peft.finetuning.study.testbeds import real
from mona_peft.finetuning.study.variants import Variant
from tests.finetuning.study.fakes import write_dinov2

SIDE = 16


@pytest.fixture
def material(tmp_path, monkeypatch):
    """Two classes of small pictures and a DINOv2 of one block."""
    monkeypatch.setattr(real, "FEW_STEPS", 4)
    monkeypatch.setattr(real, "BATCH_SIZE", 2)
    folder, rng = tmp_path / "material", np.random.default_rng(0)
    for split, count in (("train", 4), ("validation", 2), ("test", 3)):
        for label in ("birds", "bugs"):
            (folder / "clipart" / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8)
                Image.fromarray(pixels).save(folder / "clipart" / split / label / f"{split}{number}.png")
    write_dinov2(folder / real.BACKBONE, SIDE, patch_size=4, num_hidden_layers=1)
    return folder


def compare(tmp_path, material, *words):
    places = ["--material", str(material), "--study_dir", str(tmp_path / "study")]
    arguments = ["--testbed", "clipart", "--shots", "2", "--methods", "mona", "lora16", *places, *words]
    return run_comparison(*parse_study(CompareConfig, arguments))


def test_a_study_in_pieces_goes_on_from_committed_records(tmp_path, material):
    committed = tmp_path / "results"
    first = compare(tmp_path, material, "--max_runs", "2", "--results_dir", str(committed))
    assert [(one.label, one.learning_rate, one.runs, one.left) for one in first.unfinished] == [
        ("mona", 1e-3, 1, 2),
        ("lora16", 3e-3, 1, 2),
    ]
    # Test figures are shown once the rates are chosen, and not before.
    assert not first.rows and "| lora16 | 1 | 2 | 0.003 | " in (committed / "table.md").read_text()
    records = [json.loads(line) for line in (committed / RECORDS_FILE).read_text().splitlines()]
    assert [[step for step, _ in record["validations"]] for record in records] == [[2, 4]] * 2
    assert len({record["data"] for record in records} - {""}) == 1, "one draw of a seed, named by its fingerprint"
    assert [record["options"] for record in records if record["method"] == "lora"] == [{"r": 16}]
    # Elsewhere, with the committed records alone.
    second = compare(tmp_path / "other", material, "--max_runs", "2", "--results_dir", str(committed))
    assert [(one.label, one.runs, one.left) for one in second.unfinished] == [("mona", 2, 1), ("lora16", 2, 1)]
    assert len((committed / RECORDS_FILE).read_text().splitlines()) == 4
    described = Results.load(committed).settings["benchmark"]
    assert described["split_sizes"] == {"train": 4, "validation": 4, "test": 6}
    assert described["benchmark"] == "clipart" and str(material) not in json.dumps(described)
    # Other pictures, as many of them.
    for picture in (material / "clipart" / "train" / "birds").iterdir():
        picture.rename(picture.with_name(f"other-{picture.name}"))
    with pytest.raises(ValueError, match=r"runs of seed 0 in .* had other images.*Put the data back"):
        compare(tmp_path / "other", material, "--results_dir", str(committed))


def test_the_draw_is_the_seed_s_and_the_rest_is_fixed(material):
    testbed = real.RealTestbed("clipart", material, shots=2)
    first, again, other = testbed.load(0), testbed.load(0), testbed.load(1)
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    for split in ("validation", "test"):
        assert first.splits[split]["image"] == other.splits[split]["image"]


def test_what_the_study_fixes_is_refused(tmp_path, material):
    with pytest.raises(ValueError, match="--testbed clipart has settings of its own; batch_size=4 would have no"):
        compare(tmp_path, material, "--batch_size", "4")
    with pytest.raises(ValueError, match="for classification, not for detection"):
        parse_study(CompareConfig, ["--testbed", "clipart", "--task", "detection"])


def test_missing_material_names_the_command_that_brings_it(tmp_path):
    with pytest.raises(ValueError, match="emoji is not there; run `python scripts/prepare_study.py --material emoji"):
        real.RealTestbed("emoji", tmp_path)


def test_every_method_begins_between_two_other_rates(material):
    testbed = real.RealTestbed("clipart", material, shots=2)
    for method in ("full", "fixed", "bitfit", "lora", "mona", "partial-1"):
        middle, low, high = testbed.first_rates(Variant(method, method))
        assert low < middle < high and middle in real.LADDER
