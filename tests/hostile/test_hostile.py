"""Seeded hostile cases: 50 in the default tests, 2,000 in the slow ones, N by `make hostile N=10000`."""

import os

import pytest

from . import (
    attack_checkpoints,
    attack_images,
    attack_labels,
    attack_objects,
    attack_repositories,
    attack_settings,
)
from .watch import run_cases

#: Kind of attack and its share of the cases. A damaged checkpoint costs seconds, an image next to nothing.
ATTACKS = {
    "repositories": (attack_repositories, 0.2),
    "settings": (attack_settings, 0.15),
    "images": (attack_images, 0.33),
    "labels": (attack_labels, 0.15),
    "objects": (attack_objects, 0.15),
    "checkpoints": (attack_checkpoints, 0.02),
}
FEW = 50
MANY = int(os.environ.get("HOSTILE_CASES", "2000"))


def seeds(kind, first, total):
    return range(first, first + max(1, round(total * ATTACKS[kind][1])))


def check(kind, cases):
    module = ATTACKS[kind][0]
    bad = run_cases(module.attack, cases, getattr(module, "setup", None))
    listed = "\n".join(f"seed {verdict.seed}: {verdict.problem}" for verdict in bad[:5])
    assert not bad, f"{len(bad)} of {len(cases)} cases ({kind}) ended badly:\n{listed}"


@pytest.mark.parametrize("kind", ATTACKS)
def test_a_few_hostile_cases(kind):
    check(kind, seeds(kind, 0, FEW))


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("kind", ATTACKS)
def test_many_hostile_cases(kind):
    check(kind, seeds(kind, 1000, MANY))
