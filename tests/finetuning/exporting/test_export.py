"""An exported file gives what PyTorch gives, says what it holds, and does not appear if it disagrees."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

import mona_peft
from mona_peft.finetuning.exporting import checking
from mona_peft.finetuning.exporting import export as export_module
from mona_peft.finetuning.exporting.pictures import photographs
from mona_peft.finetuning.exporting.runtimes import load_torch, read_facts
from mona_peft.finetuning.inference.classification import LoadedClassifier
from mona_peft.finetuning.inference.dense import LoadedDense
from tests.finetuning.serving.adapters import save_adapter
from tests.finetuning.tasks.tiny_classifier import write_classifier
from tests.support.models import images, predict

pytestmark = pytest.mark.slow  # tracing and writing a graph takes half a minute


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three Mona adapters with heads of four classes on one Swin."""
    root = tmp_path_factory.mktemp("export")
    write_classifier(root / "base")
    for seed in range(3):
        save_adapter(root / "base", root / f"mona{seed}", "mona", 4, seed)
    return root


def run_onnx(path, **inputs):
    """What a user without this package does."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {name: np.asarray(value) for name, value in inputs.items()})[0]


@pytest.fixture(scope="module")
def exported(root):
    """An ONNX file, its check, and the graph it was written from."""
    path, graphs = root / "mona0.onnx", []
    with pytest.MonkeyPatch.context() as patch:
        trace = export_module.trace
        patch.setattr(export_module, "trace", lambda *args: graphs.append(trace(*args)) or graphs[0])
        return path, mona_peft.export(root / "mona0", path), graphs[0]


@pytest.fixture
def traced(exported, monkeypatch):
    """Tracing takes its time, so the graph of the first export is written again."""
    monkeypatch.setattr(export_module, "trace", lambda *args: exported[2])


def test_onnx_gives_what_pytorch_gives(root, exported):
    path, check, _ = exported
    assert check.relative < 1e-4 and check.agreement == 1 and check.batches == (1, 3)
    model = mona_peft.load(root / "mona0").model
    outputs = []
    for size in (1, 2, 5):
        x = images(size, seed=size)
        outputs.append(run_onnx(path, pixel_values=x))
        torch.testing.assert_close(torch.from_numpy(outputs[-1]), predict(model, x), rtol=1e-4, atol=1e-4)
    assert [len(output) for output in outputs] == [1, 2, 5] and outputs[2].std(0).min() > 1e-3


def test_the_file_says_what_it_holds(exported):
    path, check, _ = exported
    facts = read_facts(path)
    assert facts["labels"] == [f"mona0-{number}" for number in range(4)]
    assert facts["preparation"]["size"] == {"height": 32, "width": 32}
    assert facts["preparation"]["image_mean"] == [0.5] * 3 and facts["preparation"]["image_std"] == [0.5] * 3
    assert facts["inputs"] == ["pixel_values"]
    assert facts["check"]["difference"] == check.difference and facts["precision"] == "float32"
    assert all(not tensor.external_data for tensor in onnx.load(path).graph.initializer)


def test_its_preparation_is_enough_to_prepare_a_picture(root, exported):
    """Without an image processor: what the file says, in numpy and Pillow."""
    facts = read_facts(exported[0])["preparation"]
    picture = photographs()[0]
    size = (facts["size"]["width"], facts["size"]["height"])
    x = np.asarray(picture.resize(size, facts["resample"]), np.float32) * facts["rescale_factor"]
    x = ((x - facts["image_mean"]) / facts["image_std"]).transpose(2, 0, 1)[None].astype(np.float32)
    expected = mona_peft.load(root / "mona0").predict([picture], top_k=1)[0][0]["label"]
    assert read_facts(exported[0])["labels"][run_onnx(exported[0], pixel_values=x).argmax()] == expected


@pytest.mark.usefixtures("traced")
def test_a_file_that_disagrees_is_not_kept(root, tmp_path):
    loaded = mona_peft.load(root / "mona0")
    with torch.no_grad():
        loaded.bare_model().classifier.modules_to_save["default"].bias += 1
    with pytest.raises(ValueError, match=r"model.pt2 was not kept: it differs from PyTorch by \S+, .* Choose"):
        mona_peft.export(loaded, tmp_path / "model.pt2", format="torch")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("traced")
def test_torch_export_takes_another_batch_and_says_what_it_holds(root, tmp_path):
    path = tmp_path / "model.pt2"
    check = mona_peft.export(root / "mona0", path, format="torch")
    assert check.relative < 1e-4 and read_facts(path)["labels"][3] == "mona0-3"
    x = images(5)
    (found,) = load_torch(path)({"pixel_values": x})
    torch.testing.assert_close(found, predict(mona_peft.load(root / "mona0").model, x), rtol=1e-4, atol=1e-4)


def test_one_graph_serves_every_adapter_of_the_configuration(root, tmp_path):
    path = tmp_path / "any.onnx"
    check = mona_peft.export(root / "mona0", path, adapter_inputs=True)
    assert check.adapters == 3 and check.relative < 1e-4
    x, outputs = images(3), []
    for number in range(3):
        weights = load_file(root / f"mona{number}" / "adapter_model.safetensors")
        assert set(read_facts(path)["inputs"]) == {"pixel_values", *weights}
        outputs.append(torch.from_numpy(run_onnx(path, pixel_values=x, **weights)))
        expected = predict(mona_peft.load(root / f"mona{number}").model, x)
        torch.testing.assert_close(outputs[-1], expected, rtol=1e-4, atol=1e-4)
    assert (outputs[0] - outputs[1]).abs().max() > 0.01 and (outputs[1] - outputs[2]).abs().max() > 0.01


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(("precision", "part"), [("float16", 0.7), ("int8", 0.7)])
def test_smaller_precisions_make_smaller_files(root, tmp_path, exported, precision, part):
    path = tmp_path / "model.onnx"
    check = mona_peft.export(root / "mona0", path, precision=precision)
    assert 0 < check.relative < checking.TOLERANCES[precision] and check.agreement >= 0.75
    assert weight_bytes(path) < part * weight_bytes(exported[0])
    assert run_onnx(path, pixel_values=images(2)).dtype == np.float32


def weight_bytes(path):
    return sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in onnx.load(path).graph.initializer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "tflite"}, "format='tflite' is none of onnx, torch"),
        ({"precision": "int4"}, "precision='int4' of onnx must be one of float32, float16, int8"),
        ({"format": "torch"}, r"must end in \.pt2 for the format 'torch'"),
        ({"precision": "int8", "adapter_inputs": True}, "they are not in it"),
        ({"dynamic_size": True, "image_size": 64}, "image_size=64 is for a graph of one size"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_loaded(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        mona_peft.export("nobody/nothing", tmp_path / "model.onnx", **options)


def test_a_file_that_is_there_is_left_alone(root, tmp_path):
    (tmp_path / "model.onnx").write_text("mine")
    with pytest.raises(ValueError, match=r"model\.onnx exists already; remove it or choose another name"):
        mona_peft.export(root / "mona0", tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_text() == "mine"
    with pytest.raises(ValueError, match="is no file that mona_peft.export wrote"):
        read_facts(tmp_path / "model.pt2")


def test_adapter_inputs_need_an_adapter(root, tmp_path):
    loaded = mona_peft.load(root / "base")
    assert isinstance(loaded, LoadedClassifier)
    with pytest.raises(ValueError, match="adapter_inputs needs a model with an adapter"):
        mona_peft.export(loaded, tmp_path / "model.onnx", adapter_inputs=True)


def test_other_models_than_classifiers_are_refused(root, tmp_path):
    loaded = mona_peft.load(root / "mona0")
    with pytest.raises(ValueError, match="is no image classifier, segmenter or detector; no other"):
        mona_peft.export(LoadedDense(loaded.model, loaded.processor), tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="base_model: options of load are for a repository"):
        mona_peft.export(loaded, tmp_path / "model.onnx", base_model="elsewhere")
    with pytest.raises(
        ValueError, match="image_size=64: pictures of a classifier are as large as its image processor"
    ):
        mona_peft.export(loaded, tmp_path / "model.onnx", image_size=64)


def test_a_failure_of_an_exporter_is_told_by_what_caused_it():
    with pytest.raises(ValueError, match="^Net cannot be written for onnx, or not run: only 4D keys$"):
        with export_module._explained({"model": "Net", "sizes": {}}, "onnx"):
            try:
                raise AssertionError("only \x1b[96m4D\x1b[0m\nkeys")
            except AssertionError as error:
                raise RuntimeError("step 3/3 failed, with pages of advice") from error
