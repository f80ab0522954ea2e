"""The notebooks run from beginning to end."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.mark.slow
def test_quickstart(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOKS / "quickstart.ipynb", as_version=4)
    notebook.cells.append(
        nbformat.v4.new_code_cell("print('RESULT', before, after, reloaded, repository.is_dir(), len(figure.axes))")
    )
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    _, before, after, reloaded, saved, axes = notebook.cells[-1].outputs[0]["text"].split()
    assert float(after) > float(before) + 0.25
    assert float(reloaded) == pytest.approx(float(after), abs=0.1)  # a fifth of the test scans
    assert (saved, axes) == ("True", "16")
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 2
