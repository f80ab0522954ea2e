"""Put the tables of `results/` into documents, between their markers.

python scripts/fill_tables.py README.md docs/results.md
"""

from __future__ import annotations

import sys
from pathlib import Path

from mona_peft.finetuning.study.documents import fill, tables

RESULTS = Path(__file__).parents[1] / "results"


def main(documents: list[str]) -> None:
    """Fill the documents."""
    found = tables(RESULTS)
    for name in documents:
        path = Path(name)
        path.write_text(fill(path.read_text(encoding="utf-8"), found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
