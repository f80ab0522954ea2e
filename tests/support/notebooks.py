"""Run the notebooks of the repository; `python -m tests.support.notebooks` stores their outputs (`make notebooks`)."""

from __future__ import annotations

import base64
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
#: What stored outputs are made with, where a notebook has settings.
STORED = {
    "quickstart.ipynb": {"MODEL": "small"},
    "dense_prediction.ipynb": {"SIZE": "full"},
    "comparison.ipynb": {"MONA_RESULTS": str(ROOT / "results")},
    "design_study.ipynb": {"MONA_STUDY_SIZE": "full"},
}

#: What a progress bar says, finished or not.
PROGRESS = re.compile(r"%\|.*\||\[[^]]*(it|files|examples|step|run)/s|s/(it|step|run)")


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


def tidy(found: Iterable[Any]) -> Iterator[Any]:
    """The outputs of a cell: text in one piece, without warnings and progress bars; pictures in 256 colours."""
    printed = "".join(output.text for output in found if output.get("name") == "stdout")
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in printed.split("\n")]
    text = "\n".join(line for line in lines if not PROGRESS.search(line)).strip()
    if text:
        yield nbformat.v4.new_output("stream", name="stdout", text=text + "\n")
    for output in found:
        if output["output_type"] != "stream":
            if "image/png" in output.get("data", {}):
                output["data"]["image/png"] = with_few_colours(output["data"]["image/png"])
            yield output


def with_few_colours(picture: str) -> str:
    """A PNG file in base 64 as a smaller one."""
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    written = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(written, "PNG", optimize=True)
    return base64.b64encode(written.getvalue()).decode()


def store(name: str) -> None:
    """Run a notebook as `STORED` says, and write it with its outputs."""
    from transformers import ViTImageProcessor

    from mona_peft.finetuning.study.testbeds.digits import pretrain_swin

    with tempfile.TemporaryDirectory() as folder:
        if name == "quickstart.ipynb":
            model = pretrain_swin(Path(folder) / "pretraining", epochs=8).rename(Path(folder) / "small")
            processor = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
            processor.save_pretrained(model)
        os.environ |= STORED[name]
        notebook = run(nbformat.read(NOTEBOOKS / name, as_version=4), Path(folder), seconds=3600)
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = list(tidy(cell.outputs))
    nbformat.write(notebook, NOTEBOOKS / name)


if __name__ == "__main__":
    for each in sys.argv[1:] or STORED:
        store(each)
        print(f"Stored the outputs of {each}")
