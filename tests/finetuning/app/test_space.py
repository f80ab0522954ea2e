"""The Space: a folder that stands alone, names no folder of this machine, and overwrites nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request
from urllib.error import URLError

import pytest
from huggingface_hub import SpaceCard
from packaging.requirements import Requirement

from mona_peft.finetuning.app.space import requirements
from mona_peft.finetuning.commands.main import run
from tests.finetuning.serving.adapters import save_adapter
from tests.finetuning.tasks.tiny_classifier import write_classifier


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    root = tmp_path_factory.mktemp("space")
    write_classifier(root / "base")
    save_adapter(root / "base", root / "pets", "mona", 3)
    return run("app", str(root / "pets"), "--export_space", str(root / "my-space"))


def test_the_space_holds_all_it_needs_and_no_place_of_this_machine(space):
    card = SpaceCard.load(space / "README.md")
    assert card.data.sdk == "gradio" and re.fullmatch(r"[\d.]+", card.data.sdk_version)
    assert (space / card.data.app_file).is_file()
    assert (space / "models/pets-0/adapter_model.safetensors").is_file()
    assert (space / "bases/base-0/model.safetensors").is_file()
    names = {Requirement(line).name for line in (space / "requirements.txt").read_text().splitlines()}
    assert {"torch", "transformers", "peft", "gradio", "torchvision", "pillow"} <= names and "mona-peft" not in names
    assert (space / "mona_peft" / "finetuning" / "recipes" / "swin-tiny-flowers102.yaml").is_file()
    texts = [path.read_text() for path in space.rglob("*") if path.suffix in (".py", ".json", ".md", ".txt")]
    assert not any(str(space.parent) in text for text in texts)


def test_nothing_is_overwritten(space, tmp_path):
    before = (space / "app.py").read_text()
    with pytest.raises(ValueError, match="not empty; name a new folder with --export_space"):
        run("app", str(space.parent / "pets"), "--export_space", str(space))
    assert (space / "app.py").read_text() == before
    with pytest.raises(ValueError, match="No model was given: mona-peft app FOLDER"):
        run("app", "--export_space", str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_requirements_are_those_of_the_app():
    assert any(line.startswith("gradio") for line in requirements())
    assert not any(line.startswith(("pytest", "mkdocs")) for line in requirements())


@pytest.mark.slow
def test_the_space_runs(space):
    """Moved elsewhere it would be the same: it is run from another folder, with its own copy of the package."""
    environment = {**os.environ, "PYTHONPATH": str(space), "GRADIO_SERVER_PORT": "7941"}
    process = subprocess.Popen([sys.executable, space / "app.py"], cwd=space.parent, env=environment)
    try:
        for _ in range(240):
            assert process.poll() is None
            try:
                text = urllib.request.urlopen("http://127.0.0.1:7941/config", timeout=5).read().decode()
                break
            except (URLError, OSError):
                time.sleep(1)
        assert "pets" in text and "Contribution of each block" in text
    finally:
        process.terminate()
        process.wait()
