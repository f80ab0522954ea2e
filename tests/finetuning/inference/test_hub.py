"""Pushing to, and loading from, a Hub on the loopback interface with the real client."""

import json
import os
import subprocess
import sys

import pytest
import torch

from mona_peft.finetuning.inference.loading import load
from tests.finetuning.tasks.tiny_classifier import as_flags, configs, write_classifier
from tests.finetuning.training.launching import SCRIPT
from tests.support.hub_server import Hub

DOWNLOAD = """
import json, sys, torch
import mona_peft
from mona_peft.finetuning.inference.loading import load
from peft import PeftModel
from transformers import AutoConfig, AutoModelForImageClassification

pixels = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
config = AutoConfig.from_pretrained("user/digits-mona")
base = AutoModelForImageClassification.from_pretrained(sys.argv[1], config=config, ignore_mismatched_sizes=True)
peft = PeftModel.from_pretrained(base, "user/digits-mona").eval()
both = [load("user/digits-mona").model, peft]
print(json.dumps([model(pixel_values=pixels).logits.tolist() for model in both]))
"""


@pytest.fixture
def client(tmp_path):
    """Runs Python against a Hub of its own."""
    with Hub() as hub:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_" + "x" * 34}
        environment |= {"HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}

        def run(*command: str) -> str:
            done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment)
            assert done.returncode == 0, f"{done.stderr[-3000:]}\nunknown requests: {hub.unknown}"
            return done.stdout

        yield hub, run


@pytest.mark.slow
def test_push_by_the_script_and_load_from_the_hub(tmp_path, client):
    hub, run = client
    model = write_classifier(tmp_path / "base")
    flags = as_flags(
        *configs(model, tmp_path / "run", push_to_hub=True, hub_model_id="user/digits-mona", num_epochs=1)
    )
    assert "Pushed to user/digits-mona" in run(str(SCRIPT), *flags)
    pushed = hub.repositories["user/digits-mona"]
    folder = tmp_path / "run" / "model"
    assert pushed.keys() == {path.name for path in folder.iterdir()}
    assert all(pushed[path.name] == path.read_bytes() for path in folder.iterdir())
    assert pushed["adapter_model.safetensors"] in hub.large.values()  # went the way of large files
    assert 'mona_peft.load("user/digits-mona")' in pushed["README.md"].decode()
    pixels = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
    with torch.inference_mode():
        expected = load(folder).model(pixel_values=pixels).logits
    for logits in json.loads(run("-c", DOWNLOAD, str(model)).splitlines()[-1]):
        assert torch.allclose(torch.tensor(logits), expected, atol=1e-5)


@pytest.mark.slow
def test_large_private_repository(tmp_path, client):
    hub, run = client
    (tmp_path / "repository").mkdir()
    content = os.urandom(12_000_000)
    (tmp_path / "repository" / "model.safetensors").write_bytes(content)
    code = (
        "import sys; from pathlib import Path; from mona_peft.finetuning.pushing import push_repository;"
        "print(push_repository(Path(sys.argv[1]), 'large', private=True))"
    )
    assert run("-c", code, str(tmp_path / "repository")).splitlines()[-1] == "user/large"
    assert hub.repositories["user/large"]["model.safetensors"] == content and hub.private["user/large"]


def test_base_models_of_this_machine_are_warned_about(tmp_path, monkeypatch):
    from mona_peft.finetuning import pushing

    class Api:
        def create_repo(self, repo_id, **options):
            return type("Url", (), {"repo_id": f"user/{repo_id}"})

        def upload_folder(self, **options):
            pass

    monkeypatch.setattr(pushing, "HfApi", Api)
    with pytest.warns(UserWarning, match="which others do not have"):
        assert pushing.push_repository(tmp_path, "name", base_model=str(tmp_path)) == "user/name"
