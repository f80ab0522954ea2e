"""What a study runs, in which order, and how it goes on."""

import json
import random
import re
from dataclasses import replace

import pytest

from mona_peft.finetuning.methods import METHODS
from mona_peft.finetuning.study.command import collect
from mona_peft.finetuning.study.plan import Plan
from mona_peft.finetuning.study.records import Record, RunKey, load_records, read_lines, write_lines
from mona_peft.finetuning.study.report import write_report
from mona_peft.finetuning.study.variants import PAPER_METHODS, Variant, method_variants
from tests.finetuning.study.fakes import FakeStudy, FakeTestbed, record

VARIANTS = (Variant("a", "full"), Variant("b b", "mona", {"bottleneck_dim": 8}))
PLAN = Plan(VARIANTS, (0.1, 0.2), seeds=4, search_seeds=2)


def figure(label, rate, seed):
    """For `a` the rate 0.1 is better on validation, for `b b` 0.2; the test figures say the opposite."""
    good = (rate == 0.1) == (label == "a")
    return (0.8 if good else 0.4) + seed / 100, 0.3 if good else 0.9


def report(study, folder):
    """The results of a study, written to a folder."""
    results, records = collect(study, "a")
    write_report(folder, results, records)
    return results


def expected_keys():
    grid = {RunKey(v.label, rate, seed) for v in VARIANTS for rate in (0.1, 0.2) for seed in (0, 1)}
    return grid | {RunKey("a", 0.1, seed) for seed in (2, 3)} | {RunKey("b b", 0.2, seed) for seed in (2, 3)}


def test_grid_first_and_then_the_other_seeds_at_the_chosen_rate(tmp_path):
    study = FakeStudy(PLAN, tmp_path, figure)
    assert study.run() == 12
    assert set(study.done) == expected_keys() and len(study.done) == 12
    assert study.missing() == []


@pytest.mark.parametrize("chunk", [1, 3, 11])
def test_a_stopped_study_goes_on(tmp_path, chunk):
    done = []
    while True:
        study = FakeStudy(PLAN, tmp_path, figure)
        if not study.run(max_runs=chunk):
            break
        done += study.done
    assert set(done) == expected_keys() and len(done) == 12


def test_any_order_gives_the_same_runs(tmp_path):
    first, second = FakeStudy(PLAN, tmp_path / "1", figure), FakeStudy(PLAN, tmp_path / "2", figure)
    first.run()
    second.run(order=random.Random(5))
    assert first.done != second.done
    assert first.records() == second.records()


def test_a_run_cut_off_in_the_middle_is_done_again(tmp_path):
    study = FakeStudy(PLAN, tmp_path, figure)
    study.run(max_runs=3)
    leftover = study.runs / (RunKey("a", 0.2, 1).file_name + ".incomplete")
    leftover.write_text('{"label": "a"')  # what a kill in the middle of writing leaves
    again = FakeStudy(PLAN, tmp_path, figure)
    assert again.run() == 9
    assert RunKey("a", 0.2, 1) in again.done


def test_what_another_process_did_meanwhile_is_left_alone(tmp_path):
    other = FakeStudy(PLAN, tmp_path, figure)

    def meanwhile(label, rate, seed):
        if not other.done:
            other.run(max_runs=4)
        return figure(label, rate, seed)

    study = FakeStudy(PLAN, tmp_path, meanwhile)
    study.run()
    assert set(study.done) | set(other.done) == expected_keys()
    assert len(study.done) == 12 - len(other.done) + 1, "the run under way when the other began is done twice"


def test_a_study_can_be_extended(tmp_path):
    FakeStudy(PLAN, tmp_path, figure).run()
    wider = Plan((*VARIANTS, Variant("c", "fixed")), (0.1, 0.2), seeds=5, search_seeds=2)
    study = FakeStudy(wider, tmp_path, figure)
    study.run()
    assert {key.label for key in study.done} == {"a", "b b", "c"}
    assert {(k.label, k.seed) for k in study.done if k.label != "c"} == {("a", 4), ("b b", 4)}


def test_variants_may_have_their_own_rates(tmp_path):
    study = FakeStudy(Plan(VARIANTS, (0.1,), seeds=1, rates={"b b": (0.3, 0.4)}), tmp_path, figure)
    study.run()
    assert {(k.label, k.learning_rate) for k in study.done} == {("a", 0.1), ("b b", 0.3), ("b b", 0.4)}


LADDER = (0.01, 0.03, 0.1, 0.3, 1.0)


@pytest.mark.parametrize(
    ("best", "tried"),
    [
        (0.1, {0.03, 0.1, 0.3}),
        (0.3, {0.03, 0.1, 0.3, 1.0}),
        (0.03, {0.01, 0.03, 0.1, 0.3}),
        (0.01, {0.01, 0.03, 0.1, 0.3}),  # the ladder ends there
    ],
)
def test_a_grid_grows_while_its_best_rate_is_at_its_end(tmp_path, best, tried):
    plan = Plan(VARIANTS[:1], (0.1, 0.03, 0.3), seeds=3, search_seeds=1, ladder=LADDER)
    study = FakeStudy(plan, tmp_path, lambda label, rate, seed: (1 - abs(rate - best), 0.5))
    study.run()
    assert {key.learning_rate for key in study.done} == tried
    assert {key.seed for key in study.done if key.learning_rate == best} == {0, 1, 2}
    assert len(study.done) == len(tried) + 2


def test_a_stopped_study_has_something_of_every_variant(tmp_path):
    study = FakeStudy(PLAN, tmp_path, figure)
    study.run(max_runs=4)
    assert [key.label for key in study.done] == ["a", "b b", "a", "b b"]


def test_committed_runs_are_taken_over_and_not_done_again(tmp_path):
    first = FakeStudy(PLAN, tmp_path / "1", figure)
    first.run(max_runs=5)
    report(first, tmp_path / "results")
    second = FakeStudy(PLAN, tmp_path / "2", figure)
    assert second.take_in(tmp_path / "results") == 5 and second.records() == first.records()
    assert second.take_in(tmp_path / "results") == 0 == second.take_in(tmp_path / "none")
    assert second.run() == 7 and set(first.done) | set(second.done) == expected_keys()
    other = FakeStudy(PLAN, tmp_path / "3", figure, FakeTestbed("other"))
    with pytest.raises(ValueError, match="results holds another study .benchmark: 'fake' then, 'other' now"):
        other.take_in(tmp_path / "results")
    (tmp_path / "results" / "results.json").unlink()
    with pytest.raises(ValueError, match="results.json cannot be read .* It must say what study"):
        other.take_in(tmp_path / "results")


def test_a_table_of_some_methods_keeps_the_runs_of_the_others(tmp_path):
    whole = FakeStudy(PLAN, tmp_path / "1", figure)
    whole.run()
    report(whole, tmp_path)
    part = FakeStudy(replace(PLAN, variants=PLAN.variants[:1]), tmp_path / "2", figure)
    part.run()
    assert [row.label for row in report(part, tmp_path).rows] == ["a"]
    assert read_lines(tmp_path / "records.jsonl") == whole.records()


def test_runs_with_other_settings_are_not_those_asked_for(tmp_path):
    FakeStudy(PLAN, tmp_path, figure).run()
    for change in ({"options": {"bottleneck_dim": 8}}, {"drop_path": 0.3}, {"method": "lora"}):
        plan = replace(PLAN, variants=(replace(PLAN.variants[0], **change), *PLAN.variants[1:]))
        ((name, value),) = change.items()
        with pytest.raises(ValueError, match=rf"of 'a' with other settings \({name}: .* {re.escape(repr(value))} now"):
            FakeStudy(plan, tmp_path, figure).run()


def test_rates_and_seeds_that_were_not_asked_for_are_not_in_the_table(tmp_path):
    study = FakeStudy(replace(PLAN, seeds=2), tmp_path, figure)
    study.run()
    before = collect(study, "a")
    record("a", 0.5, 0, 1.0, 1.0, method="full").save(study.runs)
    record("a", 0.1, 7, 1.0, 1.0, method="full").save(study.runs)
    assert collect(study, "a") == before and study.missing() == []


def test_a_damaged_line_of_committed_runs_is_named(tmp_path):
    study = FakeStudy(PLAN, tmp_path, figure)
    study.run(max_runs=2)
    write_lines(study.records(), tmp_path / "records.jsonl")
    with (tmp_path / "records.jsonl").open("a") as file:
        file.write('{"label": "a"}\n')
    with pytest.raises(ValueError, match="records.jsonl, line 3, is no record of a run"):
        study.take_in(tmp_path)


def test_runs_that_are_nearly_the_same_are_all_done(tmp_path):
    variants = (Variant("kernels 3/5", "mona"), Variant("kernels 3:5", "mona"))
    study = FakeStudy(Plan(variants, (0.12345671, 0.12345672), seeds=1), tmp_path, figure)
    assert study.run(max_runs=9) == 4 and study.missing() == []


def test_another_testbed_is_refused(tmp_path):
    FakeStudy(PLAN, tmp_path, figure)
    with pytest.raises(ValueError, match="another study.*'fake' then, 'other' now"):
        FakeStudy(PLAN, tmp_path, figure, FakeTestbed("other"))


def test_records_of_other_variants_stay_out(tmp_path):
    study = FakeStudy(PLAN, tmp_path, figure)
    record("gone", 0.1, 0, 0.5, 0.5).save(study.runs)
    study.run(max_runs=1)
    assert [r.label for r in study.records()] == ["a"]


def test_records_come_back_as_they_were(tmp_path):
    saved = record("a/b: c", 1e-4, 3, 0.5, 0.25, options={"r": 4}, versions={"torch": "2"})
    path = saved.save(tmp_path)
    assert re.fullmatch(r"[\w.=+%-]+\.json", path.name)
    assert load_records(tmp_path) == [saved]


def test_a_foreign_file_is_named(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"label": "a"}))
    with pytest.raises(ValueError, match=r"x\.json is no record"):
        load_records(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"variants": ()}, "at least one variant"),
        ({"learning_rates": ()}, "one learning rate"),
        ({"seeds": 0}, "one seed"),
        ({"search_seeds": 5}, "search_seeds is 5"),
        ({"variants": (VARIANTS[0], VARIANTS[0])}, "called a"),
    ],
)
def test_bad_plans_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Plan(**{"variants": VARIANTS, "learning_rates": (0.1,), "seeds": 4, "search_seeds": 2, **values})


def test_the_papers_methods_all_exist():
    assert set(PAPER_METHODS) <= set(METHODS) and len(PAPER_METHODS) == 10
    variants = method_variants(PAPER_METHODS, {"lora": {"r": 4}})
    assert [v.options for v in variants if v.options] == [{"r": 4}]
    with pytest.raises(ValueError, match="Unknown method 'nona'"):
        Variant("x", "nona")


def test_a_preset_has_its_methods_settings_but_for_its_own():
    """A recipe's rank, drop path and first weights are those of its presets too."""
    options = {"lora": {"r": 8, "lora_alpha": 8}, "mona": {"bottleneck_dim": 4}, "lora16": {"lora_dropout": 0.1}}
    names = ["lora", "lora16", "lora-official", "mona-official", "bottleneck-official"]
    variants = method_variants(names, options, {"lora": 0.3})
    assert [variant.options for variant in variants] == [
        {"r": 8, "lora_alpha": 8},
        {"r": 16, "lora_alpha": 8, "lora_dropout": 0.1},
        {"r": 8, "lora_alpha": 1},
        {"bottleneck_dim": 4, "init_weights": "official"},
        {"init_weights": "official"},
    ]
    assert [variant.drop_path for variant in variants] == [0.3, 0.3, 0.3, None, None]


def test_record_keeps_every_field_of_a_variant():
    assert set(Variant.__dataclass_fields__) <= set(Record.__dataclass_fields__)
