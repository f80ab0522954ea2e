"""A run whose loss is not finite any more is a result of a study, and does not end it."""

from mona_peft.finetuning.study.command import CompareConfig, parse_study, run_comparison
from mona_peft.finetuning.study.records import RECORDS_FILE, read_lines


def compare(tmp_path, *rates):
    places = ["--study_dir", str(tmp_path / "study"), "--results_dir", str(tmp_path / "results")]
    words = ["--study_size", "tiny", "--methods", "mona", "fixed", "--seeds", "1", "--learning_rates", *rates]
    return run_comparison(*parse_study(CompareConfig, [*words, *places]))


def test_the_other_rates_are_chosen_from(tmp_path, capsys):
    results = compare(tmp_path, "0.01", "1e30")
    assert {row.label: row.learning_rate for row in results.rows} == {"mona": 0.01, "fixed": 0.01}
    records = read_lines(tmp_path / "results" / RECORDS_FILE)
    diverged = [record for record in records if record.diverged]
    assert {(one.label, one.learning_rate) for one in diverged} >= {("mona", 1e30)}
    said = capsys.readouterr().out
    for one in diverged:
        assert one.validation == 0 and one.metric("accuracy") == one.metric("top5_accuracy") == 0
        assert f"{one.label}, rate 1e+30, seed 0 counts as zero: The loss" in said
    assert all(one.validation > 0 for one in records if not one.diverged)
    assert not any((tmp_path / "study" / "running").glob("*")), "nothing of the run is left"
