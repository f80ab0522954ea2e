"""The notebooks for users run from beginning to end, small; their stored outputs are small and show no error."""

import json

import nbformat
import pytest

from tests.finetuning.tasks.tiny_classifier import write_classifier
from tests.support.notebooks import NOTEBOOKS, STORED, execute, outputs

MOST_BYTES = 600_000


@pytest.mark.slow
def test_quickstart(tmp_path, monkeypatch):
    """Pictures, training, mistakes, a comparison and predictions; the model is a tiny one with random weights."""
    write_classifier(tmp_path / "small")
    notebook = execute("quickstart.ipynb", monkeypatch, tmp_path, MODEL="small", EPOCHS=2)
    (table,) = outputs(notebook, "text/markdown")
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == ["| mona", "| mona", "| fixed", "| fixed"]
    assert len(outputs(notebook, "image/png")) == 5
    metrics = json.loads((tmp_path / "runs" / "mona" / "metrics.json").read_text())
    assert metrics["test"]["num_samples"] > 600 and metrics["validation"]["num_samples"] == 20


@pytest.mark.slow
def test_dense_prediction(tmp_path, monkeypatch):
    notebook = execute("dense_prediction.ipynb", monkeypatch, tmp_path, SIZE="tiny", TASK="segmentation")
    (table,) = outputs(notebook, "text/markdown")
    assert len(table.splitlines()) == 5
    assert len(outputs(notebook, "image/png")) == 2


def test_quickstart_needs_no_part_of_the_demos():
    text = (NOTEBOOKS / "quickstart.ipynb").read_text(encoding="utf-8")
    assert "import mona_peft" in text and "mona_peft.finetuning.study" not in text and "embedded" not in text


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_stored_outputs_are_small_and_show_no_error(path):
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert path.name in STORED and path.stat().st_size <= MOST_BYTES
    assert not [o for cell in cells for o in cell.outputs if o.output_type == "error" or o.get("name") == "stderr"]
