"""The table of backbones, as the newest run of tests/families found them.

`python -m tests.families.table` compares the written table with what the run found; `--write` writes it.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.families import outcomes
from tests.families.composites import COMPOSITES
from tests.families.family import Family
from tests.families.matrix import FAMILIES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "backbones.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- backbones:begin -->", "<!-- backbones:end -->"

#: What each column shows, and the tests it is read from.
COLUMNS = {
    "starts as the base model": ("test_starts_as_the_base_model",),
    "exact": ("test_blocks_agree_with_their_parts",),
    "gradients": ("test_every_adapter_parameter_gets_a_gradient_and_nothing_else",),
    "hidden states": ("test_hidden_states_carry_the_adapters",),
    "saves, loads": ("test_saves_and_loads",),
    "disables, unloads": ("test_disables_and_unloads",),
    "checkpointing": ("test_gradient_checkpointing_equals_none",),
}
TESTS = tuple(test for tests in COLUMNS.values() for test in tests)
COMPOSITE_TEST = "test_only_the_backbone_is_adapted"

INTRODUCTION = """\
Written from what passed: `make backbones`. A dot means that the library has no such thing for this family. "Exact":
with random weights, every block agrees with its parts computed one after the other, in float64 to 1e-10. "Sizes":
whether images that are not square were run as well.
"""


def family_id(family: Family) -> str:
    """How the tests' names show a family."""
    return f"{family.library}-{family.name}"


def mark(found: list[str]) -> str:
    """One cell: failed if anything did, passed if anything did, else left out."""
    if not found or "failed" in found:
        return "no"
    return "yes" if "passed" in found else "."


def render(results: outcomes.Outcomes) -> str:
    """Both tables as Markdown."""
    header = ["library", "backbone", *COLUMNS, "sizes"]
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for family in FAMILIES:
        cells = [
            mark([found for test in tests for found in results.get((test, family_id(family)), [])])
            for tests in COLUMNS.values()
        ]
        sizes = "all" if any(h != w for h, w in family.sizes) and len(family.sizes) > 1 else "one"
        lines.append("| " + " | ".join([family.library, family.name, *cells, sizes]) + " |")
    lines += ["", "| model around the backbone | blocks of the backbone adapted, and no others |", "| --- | --- |"]
    lines += [f"| {c.name} | {mark(results.get((COMPOSITE_TEST, c.name), []))} |" for c in COMPOSITES]
    return "\n".join(lines) + "\n"


def complete(results: outcomes.Outcomes) -> bool:
    """Whether every test of the table ran for every row."""
    wanted = {(test, family_id(family)) for test in TESTS for family in FAMILIES}
    return wanted | {(COMPOSITE_TEST, c.name) for c in COMPOSITES} <= results.keys()


def write(table: str) -> None:
    """Write the page, and the block of the README if it has one."""
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(f"# Backbones\n\n{INTRODUCTION}\n{table}")
    readme = README.read_text()
    if BEGIN in readme:
        README.write_text(re.sub(f"{BEGIN}.*?{END}", f"{BEGIN}\n{table}{END}", readme, flags=re.DOTALL))


def written() -> list[str]:
    """The tables as they stand in the page and, if it has the block, in the README."""
    page = PAGE.read_text()
    tables = [page[page.index("| library") :]]
    readme = README.read_text()
    if BEGIN in readme:
        tables.append(readme.split(BEGIN)[1].split(END)[0].lstrip("\n"))
    return tables


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare the written table with the newest run, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the table into docs/ and the README")
    writes = parser.parse_args(arguments).write
    results = outcomes.read()
    if not complete(results):
        sys.exit("The newest run of tests/families left tests out: run all of it, `pytest -n 2 tests/families`.")
    if writes:
        write(render(results))
    elif any(text != render(results) for text in written()):
        sys.exit(f"{PAGE.name} is not what the tests found: run `make backbones`.")


if __name__ == "__main__":
    main()
