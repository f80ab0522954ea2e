"""Run a notebook of the repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def execute(name: str, monkeypatch: Any, folder: Path, **environment: object) -> Any:
    """The notebook after it ran from top to bottom in `folder`, with these environment variables."""
    for key, value in environment.items():
        monkeypatch.setenv(key, str(value))
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def outputs(notebook: Any, kind: str) -> list[str]:
    """Everything of a MIME type that its cells gave, in order."""
    found = [o for cell in notebook.cells for o in cell.get("outputs", []) if o["output_type"] != "stream"]
    return [o["data"][kind] for o in found if kind in o["data"]]
