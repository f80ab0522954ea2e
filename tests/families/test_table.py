"""The table of backbones: outcomes of several processes become one table."""

import pytest

from tests.families import outcomes, table
from tests.families.composites import COMPOSITES
from tests.families.matrix import FAMILIES


def all_passed():
    results = {(test, table.family_id(family)): ["passed"] for test in table.TESTS for family in FAMILIES}
    return results | {(table.COMPOSITE_TEST, composite.name): ["passed"] for composite in COMPOSITES}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A page, a README and a folder of outcomes of their own."""
    monkeypatch.setattr(table, "PAGE", tmp_path / "backbones.md")
    monkeypatch.setattr(table, "README", tmp_path / "README.md")
    monkeypatch.setattr(outcomes.read, "__defaults__", (tmp_path / "outcomes",))
    table.README.write_text(f"{table.BEGIN}\n{table.END}\n")
    return tmp_path / "outcomes"


def test_the_table_has_every_backbone():
    for text in table.written():
        rows = [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in text.splitlines()]
        for family in FAMILIES:
            assert (family.library, family.name) in rows, "run `make backbones`"


def test_a_failure_shows_in_the_table():
    results = all_passed()
    assert "| no |" not in table.render(results)
    results["test_saves_and_loads", table.family_id(FAMILIES[0])] = ["passed", "failed"]
    assert table.render(results).splitlines()[2].count("| no |") == 1


def test_processes_are_merged_and_older_runs_go(tmp_path):
    outcomes.write({("test", "swin"): ["failed"]}, run="old", process="gw0", folder=tmp_path)
    outcomes.write({("test", "swin"): ["passed"]}, run="new", process="gw0", folder=tmp_path)
    outcomes.write({("test", "swin"): ["skipped"], ("test", "vit"): ["passed"]}, "new", "gw1", tmp_path)
    assert outcomes.read(tmp_path) == {("test", "swin"): ["passed", "skipped"], ("test", "vit"): ["passed"]}


def test_the_command_writes_and_compares(written):
    results = all_passed()
    first, rest = dict(list(results.items())[:100]), dict(list(results.items())[100:])
    outcomes.write(first, "run", "gw0", written)
    with pytest.raises(SystemExit, match="left tests out"):
        table.main(["--write"])
    outcomes.write(rest, "run", "gw1", written)
    table.main(["--write"])
    table.main([])  # as written
    outcomes.write({("test_saves_and_loads", table.family_id(FAMILIES[0])): ["failed"]}, "run", "gw2", written)
    with pytest.raises(SystemExit, match="make backbones"):
        table.main([])
