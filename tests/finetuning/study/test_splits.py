"""What a study chooses on and what it reports, where the data has one split for both."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import pytest

from mona_peft.finetuning.study.report import Results
from mona_peft.finetuning.study.splits import hold_out, study_splits

TRAIN, OTHER = list(range(50)), list(range(100, 110))


@pytest.mark.parametrize("name", ["validation", "test"])
def test_one_split_is_reported_and_part_of_the_training_set_chosen_on(name):
    made = study_splits({"train": TRAIN, name: OTHER}, "validation", 0.1)
    assert made.splits["test"] == OTHER and len(made.splits["validation"]) == 5
    assert Counter(made.splits["train"] + made.splits["validation"]) == Counter(TRAIN)
    assert made.chosen_on == "5 of 50 training images, held out"
    assert study_splits({"train": TRAIN, name: OTHER}, "validation", 0.1) == made, "the same for every run"


@pytest.mark.parametrize("others", [{"validation": OTHER}, {"test": OTHER}, {"validation": [1], "test": OTHER}])
def test_as_the_paper_did(others):
    made = study_splits({"train": TRAIN, **others}, "test", 0.1)
    assert made.splits == {"train": TRAIN, "validation": OTHER, "test": OTHER}
    assert made.chosen_on == "the test split, weights too, as the paper did"


def test_both_splits_are_used_as_they_are():
    splits = {"train": TRAIN, "validation": [1], "test": OTHER}
    assert study_splits(splits, "validation", 0.5).splits == splits


def test_tables_are_cut_too():
    table = datasets.Dataset.from_dict({"label": TRAIN})
    kept, held_out = hold_out(table, 0.2)
    assert len(held_out) == 10 and sorted([*kept["label"], *held_out["label"]]) == TRAIN
    assert sorted(held_out["label"]) == hold_out(TRAIN, 0.2)[1]


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": TRAIN}, "has only train. Name what is missing with --train_split or --test_split"),
        ({"test": OTHER}, "has only test"),
        ({"train": [1], "test": OTHER}, "out of 1 training samples"),
        ({"train": iter(TRAIN), "test": OTHER}, "out of a stream"),
    ],
)
def test_what_cannot_be_cut_is_refused(splits, message):
    with pytest.raises(ValueError, match=message):
        study_splits(splits, "validation", 0.1)


@dataclass
class Named:
    """Settings of a study that chose on a split of that name."""

    chosen_on: str
    variants: list = field(default_factory=list)

    def results(self):
        settings = {"benchmark": {"chosen_on": self.chosen_on}, "plan": {"variants": self.variants}}
        rows = Results.load(Path(__file__).parents[3] / "results" / "digits").rows
        return Results("digits", "python scripts/compare.py", "accuracy", "full", settings, {}, rows)


def test_the_table_says_what_was_chosen_on():
    assert "rates chosen on the test split, weights too" in Named("the test split, weights too").results().summary()


def test_the_table_says_how_lora_is_scaled():
    lora = {"label": "lora", "method": "lora", "options": {"r": 64, "lora_alpha": 1}, "group": "", "drop_path": 0.3}
    text = Named("a split", [lora, {**lora, "label": "plain", "options": {}, "drop_path": None}]).results().summary()
    assert "lora r 64, lora_alpha 1, scaling 0.015625, drop_path 0.3; plain scaling 1." in text
