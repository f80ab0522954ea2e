"""The table of the backbones that are exported is what the exports give."""

from __future__ import annotations

import pytest

from mona_peft.finetuning.study.report import read_block
from tests.families.family import Family
from tests.families.matrix import FAMILIES
from tests.families.table import family_id
from tests.finetuning.exporting import sweep


def written() -> dict[tuple[str, str], list[str]]:
    """The cells of the table by library and backbone."""
    table = read_block(sweep.PAGE.read_text(), sweep.BLOCK)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    return {(row[0], row[1]): row[2:] for row in rows[2:]}


def test_the_table_is_of_backbones_that_there_are():
    rows = written()
    assert {("transformers", "vit"), ("transformers", "convnext")} <= set(rows), sweep.__doc__
    assert set(rows) <= {(family.library, family.name) for family in FAMILIES}
    assert all(cell.split(" ")[0] in ("yes", "with", "no", ".") for row in rows.values() for cell in row)


@pytest.mark.campaign
@pytest.mark.parametrize("family", [f for f in FAMILIES if (f.library, f.name) in written()], ids=family_id)
def test_a_backbone_is_exported_as_its_row_says(family: Family):
    works = ("yes", sweep.ONNX_ALONE)
    found = [reason if reason in works else "no" for reason in sweep.try_family(family).values()]
    expected = [cell if cell in works else "no" for cell in written()[family.library, family.name]]
    assert found == expected
