"""The comparison of norms: what each setting trains with, and the whole of it at its smallest."""

import json

import pytest

from mona_peft.finetuning.study import head_norms
from mona_peft.finetuning.study.head_norms import BATCH, NORMS, NormsConfig, NormsTestbed, compare_norms
from mona_peft.finetuning.study.report import Results
from mona_peft.finetuning.study.testbeds.scenes import SIZES, ScenesTestbed


def test_every_norm_takes_the_same_crops_a_step():
    assert (NORMS[0].norm, NORMS[0].batch) == ("batch", BATCH), "what synchronised batch norm computes"
    usual = ScenesTestbed("semantic_segmentation", "upernet", SIZES["tiny"])
    for setting in NORMS:
        testbed = NormsTestbed(setting, SIZES["tiny"])
        training = testbed.training(0.1, 3)
        assert training.batch_size * training.gradient_accumulation_steps == BATCH
        assert (training.max_steps, training.seed) == (usual.training(0.1, 3).max_steps, 3)
        assert testbed.model.options == {**usual.model.options, "head_norm": setting.norm}
        assert testbed.describe()["batch"] == setting.batch
    assert "head_norm" not in usual.model.options


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_comparison_at_its_smallest(tmp_path, monkeypatch):
    norms = (NORMS[0], NORMS[3])
    monkeypatch.setattr(head_norms, "NORMS", norms)
    config = NormsConfig(
        study_size="tiny", seeds=1, method="fixed", study_dir=str(tmp_path), results_dir=str(tmp_path / "results")
    )
    results = compare_norms(config)
    assert [row.label for row in results.rows] == [setting.label for setting in norms]
    assert results.reference == norms[0].label and Results.load(tmp_path / "results").rows == results.rows
    assert "norms of the heads, 16 crops a step" in results.summary() and "accumulation 8" in results.summary()
    for setting in norms:
        recorded = json.loads((tmp_path / f"{setting.norm}-{setting.batch}" / "study.json").read_text())
        assert recorded["benchmark"]["norm"] == setting.norm
