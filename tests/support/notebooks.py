"""Run the notebooks of the repository; `python -m tests.support.notebooks` stores their outputs (`make notebooks`)."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
#: What stored outputs are made with, where a notebook has settings.
STORED = {
    "quickstart.ipynb": {"MODEL": "small"},
    "dense_prediction.ipynb": {"SIZE": "tiny"},
    "comparison.ipynb": {"MONA_RESULTS": str(ROOT / "results")},
    "design_study.ipynb": {"MONA_STUDY_SIZE": "full"},
}


def run(notebook: Any, folder: Path, seconds: int = 600) -> Any:
    """Execute a notebook in a folder; the result is the notebook itself."""
    NotebookClient(notebook, timeout=seconds, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def execute(name: str, monkeypatch: Any, folder: Path, **environment: object) -> Any:
    """The notebook after it ran from top to bottom in `folder`, with these environment variables."""
    for key, value in environment.items():
        monkeypatch.setenv(key, str(value))
    return run(nbformat.read(NOTEBOOKS / name, as_version=4), folder)


def outputs(notebook: Any, kind: str) -> list[str]:
    """Everything of a MIME type that its cells gave, in order."""
    found = [o for cell in notebook.cells for o in cell.get("outputs", []) if o["output_type"] != "stream"]
    return [o["data"][kind] for o in found if kind in o["data"]]


def store(name: str) -> None:
    """Run a notebook as `STORED` says, and write it with its outputs, warnings left out."""
    from transformers import ViTImageProcessor

    from mona_peft.finetuning.study.testbeds.digits import pretrain_swin

    with tempfile.TemporaryDirectory() as folder:
        if name == "quickstart.ipynb":
            pretrain_swin(Path(folder) / "small", epochs=8)
            ViTImageProcessor(
                size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3
            ).save_pretrained(Path(folder) / "small")
        os.environ |= STORED[name]
        notebook = run(nbformat.read(NOTEBOOKS / name, as_version=4), Path(folder), seconds=3600)
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    nbformat.write(notebook, NOTEBOOKS / name)


if __name__ == "__main__":
    for each in sys.argv[1:] or STORED:
        store(each)
        print(f"Stored the outputs of {each}")
