"""The table of backbones says what the tests found."""

import pytest

from tests.families import table
from tests.families.matrix import FAMILIES


def test_the_table_says_what_the_tests_found(results, request):
    if request.config.getoption("--write-backbones", False):
        pytest.skip("it is about to be written")
    if not table.complete(results):
        pytest.skip("the tests that the table is read from did not all run in this process")
    for text in table.written():
        assert text == table.render(results), "run `pytest tests/families --write-backbones`"


def test_the_table_has_every_backbone():
    for text in table.written():
        rows = [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in text.splitlines()]
        for family in FAMILIES:
            assert (family.library, family.name) in rows, "run `pytest tests/families --write-backbones`"


def test_a_failure_shows_in_the_table():
    family = FAMILIES[0]
    results = {(test, table.family_id(family)): ["passed"] for test in table.TESTS}
    assert "| no |" not in table.render(results).splitlines()[2]
    results[("test_saves_and_loads", table.family_id(family))] = ["passed", "failed"]
    assert table.render(results).splitlines()[2].count("| no |") == 1
    assert not table.complete(results)
