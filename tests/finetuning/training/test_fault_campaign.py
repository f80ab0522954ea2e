"""The fault campaign runs: it counts its kills, compares what was killed, and writes its figures."""

import json

import pytest

from mona_peft.finetuning.study.report import markers
from tests.finetuning.faults.campaign import assert_same_study, kill_runs, write_report
from tests.finetuning.training.test_kill import assert_same_run, train_line


@pytest.mark.filterwarnings("ignore")
def test_kills_are_counted_and_reported(tmp_path, capsys):
    row = kill_runs("a line", train_line, assert_same_run, kills=1, seconds=0)
    assert row["fault"].endswith("a line") and row["times"] <= 1
    assert row["outcome"] == "1 runs the same, bit for bit"
    (tmp_path / "report.md").write_text("# Faults\n" + "\n".join(markers("faults")) + "\nAfter\n")
    write_report(tmp_path / "report.md", [row, {"fault": "full disk", "times": 3, "outcome": "1 failed"}], 2.4)
    report = (tmp_path / "report.md").read_text()
    assert f"| {row['fault']} | {row['times']} | 1 runs the same, bit for bit |" in report
    assert "| full disk | 3 | 1 failed |" in report and "2 minutes on" in report and str(tmp_path) not in report
    assert report.startswith("# Faults\n") and report.endswith("\nAfter\n")


def test_studies_that_differ_are_seen(tmp_path):
    for folder, accuracy, seconds in (("a", 0.5, 1), ("b", 0.5, 9), ("c", 0.6, 1)):
        (tmp_path / folder / "runs").mkdir(parents=True)
        record = {"test": {"accuracy": accuracy}, "seconds": seconds}
        (tmp_path / folder / "runs" / "one.json").write_text(json.dumps(record))
    assert_same_study(tmp_path / "a", tmp_path / "b")
    with pytest.raises(AssertionError):
        assert_same_study(tmp_path / "a", tmp_path / "c")
