"""What the tests of the backbones found: a JSON file for each process of the newest run."""

from __future__ import annotations

import json
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "outputs" / "backbones"

#: Outcomes (`"passed"`, `"failed"`, `"skipped"`) by test and by name of the family or composite.
Outcomes = dict[tuple[str, str], list[str]]


def write(found: Outcomes, run: str, process: str, folder: Path = FOLDER) -> None:
    """Write one process's part of the outcomes of `run`, and take away what other runs left."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.json"):
        if not path.name.startswith(f"{run}."):
            path.unlink(missing_ok=True)
    rows = [[test, name, results] for (test, name), results in found.items()]
    (folder / f"{run}.{process}.json").write_text(json.dumps(rows))


def read(folder: Path = FOLDER) -> Outcomes:
    """The outcomes of the newest run, of all its processes together."""
    merged: Outcomes = {}
    for path in sorted(folder.glob("*.json")):
        for test, name, results in json.loads(path.read_text()):
            merged.setdefault((test, name), []).extend(results)
    return merged
