"""Mangled repositories end in one line that names the file, the value and what to do, before anything is built."""

import json
import shutil
import time

import pytest
import torch

from mona_peft.finetuning.inference.loading import load
from mona_peft.finetuning.validation import RepositoryError, check_expressions
from tests.finetuning.inference.saved import change_tensors, save
from tests.finetuning.tasks.tiny_classifier import write_classifier

KINDS = {"mona": "adapter_model.safetensors", "fixed": "delta_model.safetensors", "full": "model.safetensors"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("saved")
    write_classifier(root / "base")
    for method in KINDS:
        save(root / "base", root / method, method)
    return root


@pytest.fixture
def copied(saved, tmp_path):
    """Gives a copy of a repository that may be mangled."""

    def copy(method):
        return shutil.copytree(saved / method, tmp_path / method)

    return copy


def refusal(folder, **options):
    """The message that a repository is refused with; it must be one line."""
    with pytest.raises(RepositoryError) as caught:
        load(folder, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1500
    return message


@pytest.mark.parametrize("method", KINDS)
def test_whole_repositories_load(saved, method):
    assert load(saved / method).model.training is False


CONTENTS = {
    "no text": b"\xff\xfe{}",
    "null": b"null",
    "a number": b"7",
    "a list": b"[]",
    "empty": b"",
    "cut off": b'{"a": ',
    "nested": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nested a little": b'{"a":' + b"[" * 60 + b"]" * 60 + b"}",
    "a long number": b'{"bottleneck_dim": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize(
    "method, file",
    [
        ("mona", "adapter_config.json"),
        ("mona", "config.json"),
        ("mona", "preprocessor_config.json"),
        ("fixed", "delta_config.json"),
    ],
)
def test_files_that_are_no_settings(copied, method, file, content):
    folder = copied(method)
    (folder / file).write_bytes(CONTENTS[content])
    assert file in refusal(folder)


@pytest.mark.parametrize("file", ["adapter_config.json", "config.json", "preprocessor_config.json"])
def test_folders_in_place_of_files(copied, file):
    folder = copied("mona")
    (folder / file).unlink()
    (folder / file).mkdir()
    message = refusal(folder)
    assert file in message and "folder" in message


@pytest.mark.parametrize(
    "method, file, key, value, named",
    [
        ("mona", "adapter_config.json", "layers_to_transform", ["0"], "['0']"),
        ("mona", "adapter_config.json", "bottleneck_dim", "four", "'four'"),
        ("mona", "adapter_config.json", "bottleneck_dim", 10**9, "1e+09"),
        ("mona", "adapter_config.json", "bottleneck_dim", 10**5, "adapter_config.json"),
        ("mona", "adapter_config.json", "bottleneck_dim", 512, "adapter_model.safetensors"),
        ("mona", "adapter_config.json", "bottleneck_dim", -1, "bottleneck_dim=-1"),
        ("mona", "adapter_config.json", "kernel_sizes", [3, None], "[3, None]"),
        ("mona", "adapter_config.json", "modules_to_save", [1], "[1]"),
        ("mona", "adapter_config.json", "modules_to_save", {"classifier": 1}, "modules_to_save"),
        ("mona", "adapter_config.json", "peft_type", "UNKNOWN", "'UNKNOWN'"),
        ("mona", "adapter_config.json", "peft_type", ["MONA"], "['MONA']"),
        ("mona", "adapter_config.json", "peft_type", None, "None"),
        ("mona", "adapter_config.json", "peft_type", "LORA", "adapter_config.json"),
        ("mona", "adapter_config.json", "peft_type", "PROMPT_TUNING", "adapter_config.json"),
        ("mona", "adapter_config.json", "base_model_name_or_path", 5, "5"),
        ("mona", "adapter_config.json", "revision", ["main"], "['main']"),
        ("mona", "adapter_config.json", "target_modules", "(.*)*x", "'(.*)*x'"),
        ("fixed", "delta_config.json", "base_model_name_or_path", {}, "{}"),
        ("fixed", "delta_config.json", "tensors", "classifier", "'classifier'"),
        ("full", "config.json", "architectures", ["logging"], "'logging'"),
        ("full", "config.json", "architectures", ["AutoModel"], "'AutoModel'"),
        ("full", "config.json", "architectures", ["SwinModel"], "'SwinModel'"),
        ("full", "config.json", "architectures", ["ViTForImageClassification"], "'ViTForImageClassification'"),
        ("full", "config.json", "architectures", ["__class__"], "'__class__'"),
        ("full", "config.json", "architectures", [], "[]"),
        ("full", "config.json", "architectures", 3, "config.json"),
        ("full", "config.json", "model_type", "nothing", "nothing"),
        ("full", "config.json", "embed_dim", 10**5, "config.json"),
        ("full", "config.json", "embed_dim", "wide", "config.json"),
        ("full", "config.json", "depths", [10**5, 2], "depths=1e+05"),
        ("full", "config.json", "num_labels", 10**9, "num_labels=1e+09"),
        ("full", "config.json", "id2label", {"0": "a", "7": "b"}, "id2label"),
        ("full", "config.json", "id2label", [1], "config.json"),
        ("full", "config.json", "patch_size", 0, "config.json"),
        ("mona", "config.json", "embed_dim", 10**5, "config.json"),
        ("mona", "preprocessor_config.json", "size", {"height": 10**6, "width": 10**6}, "preprocessor_config.json"),
        ("mona", "preprocessor_config.json", "size", {"height": 0, "width": 4}, "preprocessor_config.json"),
        ("mona", "preprocessor_config.json", "size", "large", "preprocessor_config.json"),
        ("mona", "preprocessor_config.json", "image_mean", "grey", "preprocessor_config.json"),
        ("mona", "preprocessor_config.json", "image_std", [0, 0, 0], "preprocessor_config.json"),
        ("mona", "preprocessor_config.json", "image_processor_type", "Nothing", "preprocessor_config.json"),
    ],
)
def test_wrong_values(copied, method, file, key, value, named):
    folder = copied(method)
    content = json.loads((folder / file).read_text())
    content[key] = value
    (folder / file).write_text(json.dumps(content))
    started = time.monotonic()
    assert named in refusal(folder)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("method, weights", KINDS.items())
@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x10\x27\0\0\0\0\0\0{}"])
def test_weights_that_are_none(copied, method, weights, content):
    folder = copied(method)
    (folder / weights).write_bytes(content)
    assert weights in refusal(folder)
    (folder / weights).unlink()
    assert weights in refusal(folder)


@pytest.mark.parametrize("method, weights", KINDS.items())
def test_a_missing_head_is_named(copied, method, weights):
    folder = copied(method)
    name = "base_model.model.classifier.weight" if method == "mona" else "classifier.weight"
    change_tensors(folder / weights, lambda tensors: tensors.pop(name))
    message = refusal(folder)
    assert "classifier.weight" in message and "lacks" in message


@pytest.mark.parametrize("method", ["fixed", "mona"])
def test_nothing_that_trained_may_be_missing(saved, tmp_path, method):
    weights = KINDS[method]
    other = "norm" if method == "fixed" else method
    folder = save(saved / "base", tmp_path / "repository", other)
    name = "swin.layernorm.weight" if method == "fixed" else None

    def remove(tensors):
        tensors.pop(name or next(key for key in tensors if ".down.weight" in key))

    change_tensors(folder / weights, remove)
    assert "lacks" in refusal(folder)


@pytest.mark.parametrize(
    "method, name",
    [
        ("mona", "base_model.model.swin.embeddings.norm.weight"),  # of the base
        ("mona", "base_model.model.swin.nothing.weight"),
        ("mona", "nothing"),
        ("fixed", "nothing"),
        ("full", "nothing"),
    ],
)
def test_tensors_that_are_not_its_own_are_refused(copied, method, name):
    folder = copied(method)
    change_tensors(folder / KINDS[method], lambda tensors: tensors.update({name: torch.zeros(16)}))
    assert name in refusal(folder)


@pytest.mark.parametrize("method", KINDS)
def test_tensors_of_other_shapes_are_refused(copied, method):
    folder = copied(method)

    def widen(tensors):
        name = next(key for key in tensors if key.endswith("classifier.weight"))
        tensors[name] = torch.zeros(5, 3)

    change_tensors(folder / KINDS[method], widen)
    assert "[5, 3]" in refusal(folder)


def test_pickles_are_refused(copied):
    folder = copied("mona")
    (folder / "adapter_model.safetensors").unlink()
    torch.save({}, folder / "adapter_model.bin")
    assert "pickle" in refusal(folder)


def test_code_is_not_run_unless_asked_for(copied, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run code"))
    folder = copied("full")
    (folder / "code.py").write_text("raise SystemExit('code ran')")
    for file in ("config.json", "preprocessor_config.json"):
        content = json.loads((folder / file).read_text())
        content["auto_map"] = {name: "code.Thing" for name in ("AutoConfig", "AutoImageProcessor", "AutoModel")}
        (folder / file).write_text(json.dumps(content))
    load(folder)  # transformers knows the model type itself
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "model_type": "strange"}))
    assert "config.json cannot be loaded" in refusal(folder)


@pytest.mark.parametrize("expression", ["(.*)*x", "([a-z]|[a-z.]{1,2})*!", "(.*.*.*.*.*.*.*.*.*.*)*:"])
def test_expressions_that_never_end_are_refused(expression, monkeypatch):
    monkeypatch.setattr("mona_peft.finetuning.validation.EXPRESSION_SECONDS", 2.0)
    names = [f"swin.encoder.layers.{n}.blocks.{n}.attention.self.query" for n in range(12)]
    good = {"target_modules": r".*\.(query|value)$", "modules_to_save": ["classifier"], "revision": "[*"}
    check_expressions(good, names, "adapter_config.json")
    with pytest.raises(RepositoryError, match="does not come to an end") as caught:
        check_expressions({**good, "rank_pattern": {expression: 4}}, names, "adapter_config.json")
    assert repr(expression[:80]) in str(caught.value)


def test_what_is_no_repository(tmp_path):
    assert "no config.json" in refusal(tmp_path)
    assert "missing/folder/here" in refusal("missing/folder/here")
    assert "nobody/nothing" in refusal("nobody/nothing", revision="abc")


def test_a_delta_lists_what_trained(saved):
    """Saving writes what loading checks: names of what trained, in the delta's configuration."""
    content = json.loads((saved / "fixed" / "delta_config.json").read_text())
    assert {"classifier.weight", "classifier.bias"} <= set(content["tensors"])
    assert content["base_revision"] is None
