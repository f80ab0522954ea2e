"""The notebooks run from top to bottom, small."""

import ast
import importlib
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from tests.support.notebooks import execute, outputs

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_design_study(tmp_path, monkeypatch):
    study = tmp_path / "study"
    notebook = execute("design_study.ipynb", monkeypatch, tmp_path, MONA_STUDY_SIZE="tiny", MONA_STUDY_DIR=study)
    (table,) = outputs(notebook, "text/markdown")
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [
        "mona",
        "design v1",
        "design v2",
        "design v3",
    ]
    assert len(outputs(notebook, "image/png")) == 4
    assert len(list((study / "runs").iterdir())) == 8


@pytest.mark.slow
def test_comparison_draws_the_committed_results(tmp_path, monkeypatch):
    notebook = execute("comparison.ipynb", monkeypatch, tmp_path, MONA_RESULTS=ROOT / "results")
    tables = outputs(notebook, "text/markdown")
    assert len(tables) == 2 and all("mona" in table for table in tables)
    assert len(outputs(notebook, "image/png")) == 5


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb")))
def test_notebooks_are_valid(name):
    notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            check_imports(ast.parse(TransformerManager().transform_cell(cell.source), name))


def check_imports(tree):
    """What a notebook imports of this package is there: nothing else finds a name that moved before a user does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mona_peft"):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, name.name) for name in node.names), ast.unparse(node)
