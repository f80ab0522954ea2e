"""Pushing to, and loading from, a Hub on the loopback interface with the real client."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, RepoUrl
from peft import get_peft_model
from transformers import AutoModelForImageClassification

from mona_peft import MonaConfig
from mona_peft.finetuning import pushing
from mona_peft.finetuning.inference.loading import load
from mona_peft.finetuning.model_card import MARK, usage_for, write_card
from tests.finetuning.inference.saved import save
from tests.finetuning.tasks.tiny_classifier import as_flags, configs, write_classifier
from tests.finetuning.training.launching import SCRIPT
from tests.support.hub_server import COMMIT, Hub

PREDICT = """
import json, sys, torch
import mona_peft
from peft import PeftModel
from transformers import AutoConfig, AutoModelForImageClassification

name, base = sys.argv[1:]
pixels = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
models = [mona_peft.load(name, base_model=base or None).model]
if not base:
    config = AutoConfig.from_pretrained(name)
    bare = AutoModelForImageClassification.from_pretrained("user/base", config=config, ignore_mismatched_sizes=True)
    models.append(PeftModel.from_pretrained(bare, name).eval())
print(json.dumps([model(pixel_values=pixels).logits.tolist() for model in models]))
"""
PUSH = """
import sys
from mona_peft.finetuning.pushing import main
main(sys.argv[1:])
"""
SAVE = """
import sys, torch
from peft import get_peft_model
from transformers import AutoImageProcessor, AutoModelForImageClassification
import mona_peft

model = AutoModelForImageClassification.from_pretrained("user/base", num_labels=2, ignore_mismatched_sizes=True)
model = get_peft_model(model, mona_peft.MonaConfig(bottleneck_dim=4, modules_to_save=["classifier"]))
processor = AutoImageProcessor.from_pretrained("user/base")
mona_peft.save(model, sys.argv[1], processor, ["rose", "tulip"], "user/pets", {"test": {"accuracy": 0.5}})
"""
LOAD = """
import sys
import mona_peft
from PIL import Image
print(mona_peft.load(sys.argv[1], revision=sys.argv[2]).predict([Image.new("RGB", (40, 30))]))
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


def logits_of(loaded):
    pixels = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
    with torch.inference_mode():
        return loaded.model(pixel_values=pixels).logits


@pytest.mark.slow
def test_the_whole_way_with_a_base_model_on_the_hub(tmp_path, client):
    """Train by the script, push, load by id: with a card as the Hub reads it, and no file downloaded in vain."""
    hub, run = client
    base = write_classifier(tmp_path / "base")
    card = "---\nlicense: mit\n---\n# Base\n"
    hub.repositories["user/base"] = {path.name: path.read_bytes() for path in base.iterdir()}
    hub.repositories["user/base"] |= {"README.md": card.encode(), "pytorch_model.bin": b"x", "optimizer.pt": b"x" * 9}
    flags = as_flags(
        *configs("user/base", tmp_path / "run", push_to_hub=True, hub_model_id="user/digits-mona", num_epochs=1)
    )
    assert "Pushed to user/digits-mona" in run(str(SCRIPT), *flags)
    pushed, folder = hub.repositories["user/digits-mona"], tmp_path / "run" / "model"
    assert pushed.keys() == {path.name for path in folder.iterdir()}
    assert pushed["adapter_model.safetensors"] in hub.large.values()  # went the way of large files
    assert json.loads(pushed["adapter_config.json"])["revision"] == COMMIT
    (tmp_path / "README.md").write_bytes(pushed["README.md"])
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.base_model == "user/base" and data.base_model_relation == "adapter" and data.license == "mit"
    assert data.library_name == "peft" and data.pipeline_tag == "image-classification" and data.eval_results
    text = pushed["README.md"].decode()
    assert 'mona_peft.load("user/digits-mona")' in text and str(tmp_path) not in text
    hub.asked.clear()
    hub.repositories["user/digits-mona"]["optimizer.pt"] = b"x"
    one, two = json.loads(run("-c", PREDICT, "user/digits-mona", "").splitlines()[-1])
    assert torch.allclose(torch.tensor(one), torch.tensor(two), atol=1e-5)
    assert {revision for name, revision, path in hub.asked if name == "user/base" and path == "model.safetensors"} <= {
        COMMIT
    }
    assert not any(path.endswith((".bin", ".pt", "README.md")) for _, _, path in hub.asked)


@pytest.mark.slow
def test_a_base_model_of_this_machine_is_not_published(tmp_path, client):
    hub, run = client
    base = write_classifier(tmp_path / "base")
    folder = save(base, tmp_path / "run" / "model")
    usage = usage_for("image-classification", str(folder))
    write_card(folder, {"task": "image-classification", "base_model": str(base)}, {}, usage)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "Pushed to user/other" in run("-c", PUSH, str(folder), "user/other")
    pushed = hub.repositories["user/other"]
    assert not [name for name, content in pushed.items() if str(tmp_path).encode() in content]
    assert b'mona_peft.load("user/other", base_model="base")' in pushed["README.md"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (logits,) = json.loads(run("-c", PREDICT, "user/other", str(base)).splitlines()[-1])
    assert torch.allclose(torch.tensor(logits), logits_of(load(folder)), atol=1e-5)


@pytest.mark.parametrize("mark", [MARK, ""])
def test_a_folder_with_a_plain_name_is_replaced_in_the_loading_call_alone(tmp_path, monkeypatch, mark):
    monkeypatch.chdir(tmp_path)
    card = '---\nbase_model: user/base\n---\n# My model\n\nmona_peft.load("model")\n\nAlso in PLACE.\n' + mark
    Path("model").mkdir()
    Path("model", "README.md").write_text(card.replace("PLACE", str(tmp_path / "model")))
    (upload,) = pushing.uploads(Path("model"), "user/flowers")
    expected = card.replace('load("model"', 'load("user/flowers"').replace("PLACE", "user/flowers")
    assert upload.path_or_fileobj.decode() == expected


@pytest.mark.slow
def test_a_card_that_the_hub_refuses_is_not_pushed(tmp_path, client):
    hub, run = client
    folder = save(write_classifier(tmp_path / "base"), tmp_path / "run" / "model")
    write_card(folder, {"task": "image-classification"}, {}, "")
    hub.invalid = "pipeline_tag is unknown"
    with pytest.raises(AssertionError, match="Could not push to user/x: .*pipeline_tag is unknown.*push it with"):
        run("-c", PUSH, str(folder), "user/x", "--private")
    assert "user/x" not in hub.repositories
    hub.invalid = ""
    run("-c", PUSH, str(folder), "user/x", "--private")
    assert hub.private["user/x"] and "adapter_model.safetensors" in hub.repositories["user/x"]


@pytest.mark.slow
def test_a_model_of_any_loop_is_saved_pushed_and_loaded_at_a_revision(tmp_path, client):
    """As the README has it: PEFT, `mona_peft.save`, the Hub, `mona_peft.load`; and what others pickled is refused."""
    hub, run = client
    base = write_classifier(tmp_path / "base")
    hub.repositories["user/base"] = {path.name: path.read_bytes() for path in base.iterdir()}
    run("-c", SAVE, str(tmp_path / "flowers"))
    run("-c", PUSH, str(tmp_path / "flowers"), "user/flowers")
    pushed = hub.repositories["user/flowers"]
    (tmp_path / "README.md").write_bytes(pushed["README.md"])
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == "user/base" and card.data.base_model_relation == "adapter"
    assert card.data.datasets == ["user/pets"] and card.data.metrics == ["accuracy"] and "mona" in card.data.tags
    assert 'mona_peft.load("user/flowers")' in card.text and "pip install" in card.text and "KeyError" in card.text
    hub.asked.clear()
    assert "rose" in run("-c", LOAD, "user/flowers", COMMIT)
    assert {revision for name, revision, _ in hub.asked if name == "user/flowers"} == {COMMIT}
    pickled = {name.replace(".safetensors", ".bin"): content for name, content in pushed.items()}
    hub.repositories["user/pickled"] = pickled
    with pytest.raises(AssertionError, match="adapter_model.safetensors is missing; .*pickles are not loaded"):
        run("-c", LOAD, "user/pickled", COMMIT)
    assert not any(path.endswith(".bin") for _, _, path in hub.asked)


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


def test_a_failed_push_says_how_to_repeat_it(tmp_path, monkeypatch):
    (tmp_path / "weights file").write_bytes(b"kept")

    def fail(*args, **options):
        raise ConnectionError("no route\nto the Hub")

    monkeypatch.setattr(pushing.HfApi, "create_repo", fail)
    with pytest.raises(pushing.PushError) as caught:
        pushing.push_repository(tmp_path, "user/name", private=True)
    message = str(caught.value)
    assert "no route to the Hub" in message and "\n" not in message
    command = message.partition("push it with: ")[2]
    assert command == f"python -m mona_peft.finetuning.pushing {tmp_path} user/name --private"
    assert (tmp_path / "weights file").read_bytes() == b"kept"


def test_base_models_of_this_machine_are_warned_about(tmp_path, monkeypatch):
    monkeypatch.setattr(pushing.HfApi, "create_repo", lambda self, repo_id, **options: RepoUrl(f"user/{repo_id}"))
    monkeypatch.setattr(pushing.HfApi, "create_commit", lambda self, *args, **options: None)
    with pytest.warns(UserWarning, match="which others do not have"):
        assert pushing.push_repository(tmp_path, "name", base_model=str(tmp_path)) == "user/name"


def test_a_card_of_peft_names_no_folder_of_this_machine(tmp_path):
    model = AutoModelForImageClassification.from_pretrained(write_classifier(tmp_path / "base"))
    get_peft_model(model, MonaConfig(modules_to_save=["classifier"])).save_pretrained(tmp_path / "adapter")
    assert str(tmp_path) in (tmp_path / "adapter" / "README.md").read_text(encoding="utf-8")
    contents = {}
    for upload in pushing.uploads(tmp_path / "adapter", "user/name"):
        content = upload.path_or_fileobj
        contents[upload.path_in_repo] = content if isinstance(content, bytes) else Path(content).read_bytes()
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors"} <= contents.keys()
    assert not [name for name, content in contents.items() if str(tmp_path).encode() in content]
    metadata = ModelCard(contents["README.md"].decode()).data
    assert metadata.base_model is None and not [tag for tag in metadata.tags if tag.startswith("base_model:")]
