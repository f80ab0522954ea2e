"""The notebooks for users run from beginning to end, small; their stored outputs are small and show no error."""

import base64
import json
from io import BytesIO

import nbformat
import pytest
from PIL import Image

from tests.finetuning.tasks.tiny_classifier import write_classifier
from tests.support.notebooks import NOTEBOOKS, STORED, execute, outputs, tidy

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


def test_what_is_stored_of_a_cell_is_short():
    printed = "\rtraining:  50%|##   | 1/2 [00:01<00:01,  1.00step/s]\r   \repoch 1  loss 0.5\r\nruns/mona\r\n"
    picture = BytesIO()
    Image.radial_gradient("L").convert("RGB").save(picture, "PNG")
    shown = {"image/png": base64.b64encode(picture.getvalue()).decode()}
    found = [
        nbformat.v4.new_output("stream", name="stderr", text="a warning\n"),
        *(nbformat.v4.new_output("stream", name="stdout", text=part) for part in (printed[:40], printed[40:])),
        nbformat.v4.new_output("display_data", data=shown),
    ]
    text, image = tidy(found)
    assert text.text == "epoch 1  loss 0.5\nruns/mona\n"
    stored = Image.open(BytesIO(base64.b64decode(image.data["image/png"])))
    assert stored.mode == "P" and stored.size == (256, 256)
