"""Parity with the official code, and its checkpoints to and from adapters."""

import json
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import SwinBackbone, SwinConfig, SwinForImageClassification

from mona_peft import Mona, MonaConfig, load_official_checkpoint, save_official_checkpoint, to_official_state_dict
from mona_peft.blocks.layout import TokenLayout
from mona_peft.official import ADAPTER_NAMES
from tests.support.models import TINY_MODELS

pytestmark = pytest.mark.filterwarnings("ignore")

DATA = Path(__file__).parent / "golden"
MODULE, SWIN = DATA / "official_mona_module.safetensors", DATA / "official_swin_mona.safetensors"


def part(tensors, prefix):
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def relative(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


def golden_swin(adapter_name="default", **options):
    with safe_open(SWIN, "pt") as file:
        config = json.loads(file.metadata()["config"])
    config["image_size"] = tuple(config["image_size"])
    base = SwinBackbone(SwinConfig(**config, out_features=["stage1", "stage2"], drop_path_rate=0.0))
    return get_peft_model(base, MonaConfig(mona_dropout=0.0, **options), adapter_name=adapter_name)


def test_one_mona_agrees_with_the_official_module():
    golden = load_file(MODULE)
    mona = Mona(32, dropout=0.0)
    weights, gradients = part(golden, "weight/"), part(golden, "grad/")
    mona.load_state_dict({name: weights[official] for name, official in ADAPTER_NAMES.items()})
    x = golden["input"].requires_grad_()
    output = mona(x, TokenLayout(5, 7))
    torch.testing.assert_close(output, golden["output"], rtol=0, atol=1e-5)
    (output * golden["probe"]).mean().backward()
    assert relative(x.grad, golden["grad_input"]) < 1e-5
    for name, parameter in mona.named_parameters():
        assert relative(parameter.grad, gradients[ADAPTER_NAMES[name]]) < 1e-5, name


@pytest.mark.parametrize("training", [False, True])
def test_swin_agrees_with_the_official_code(training):
    golden = load_file(SWIN)
    model = golden_swin().train(training)
    load_official_checkpoint(model, part(golden, "weight/"))
    maps = model(pixel_values=golden["input"]).feature_maps
    for i, feature_map in enumerate(maps):
        torch.testing.assert_close(feature_map, golden[f"output/{i}"], rtol=0, atol=1e-5)
    sum((feature_map * golden[f"probe/{i}"]).mean() for i, feature_map in enumerate(maps)).backward()
    gradients = to_gradients(model)
    expected = part(golden, "grad/")
    assert gradients.keys() == expected.keys()
    for key in expected:
        assert relative(gradients[key], expected[key]) < 1e-5, key


def to_gradients(model):
    """The adapters' gradients in the official naming."""
    from mona_peft.official import _official_names

    return {k: tensors[0].grad for k, tensors in _official_names(model, "default").items() if ".my_module_" in k}


@pytest.mark.parametrize("form", ["plain", "backbone.", "adapters alone", "wrapped"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", None])
def test_there_and_back(form, suffix, tmp_path):
    weights = part(load_file(SWIN), "weight/")
    content = {key: v for key, v in weights.items() if form != "adapters alone" or "my_module" in key}
    if form == "backbone.":
        content = {f"backbone.{key}": value for key, value in content.items()} | {"decode_head.w": torch.ones(1)}
    source = content
    if suffix == ".safetensors":
        source = tmp_path / "official.safetensors"
        save_file(content, source)
    elif suffix == ".pth":
        source = tmp_path / "official.pth"
        torch.save({"state_dict": content, "meta": {"epoch": 3}} if form == "wrapped" else content, source)
    model = golden_swin(adapter_name="mine")
    base_before = model.base_model.model.swin.embeddings.norm.weight.clone()
    load_official_checkpoint(model, source, adapter_name="mine")
    written = to_official_state_dict(model, "mine", include_backbone=form != "adapters alone")
    for key, value in weights.items():
        if "my_module" in key or form != "adapters alone":
            assert torch.equal(written[key], value), key
    if form == "adapters alone":
        assert torch.equal(model.base_model.model.swin.embeddings.norm.weight, base_before)
        assert not [key for key in written if "my_module" not in key]


def test_a_classifier_takes_it_and_writes_it(tmp_path):
    config = TINY_MODELS["swin-classifier"].config()
    model = get_peft_model(SwinForImageClassification(config), MonaConfig(modules_to_save=["classifier"]))
    path = tmp_path / "official.safetensors"
    save_official_checkpoint(model, path, include_backbone=True)
    other = get_peft_model(SwinForImageClassification(config), MonaConfig(modules_to_save=["classifier"]))
    load_official_checkpoint(other, path)
    a, b = model.state_dict(), other.state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a if "classifier" not in key)
    with pytest.raises(FileExistsError, match="exists and is kept"):
        save_official_checkpoint(model, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers.9.blocks.0.norm1.weight": torch.ones(32)}, r"unknown keys: \['layers.9.blocks.0.norm1.weight'\]"),
        ({"layers.0.blocks.0.my_module_1.gamma": None}, r"missing keys: \['layers.0.blocks.0.my_module_1.gamma'\]"),
        ({"layers.0.blocks.1.attn.qkv.weight": None}, r"missing keys: \['layers.0.blocks.1.attn.qkv.weight'\]"),
        ({"layers.0.blocks.0.my_module_1.gamma": torch.ones(7)}, r"gamma \(7,\) instead of \(32,\)"),
    ],
)
def test_what_does_not_fit_is_listed_and_nothing_changes(change, message):
    weights = part(load_file(SWIN), "weight/") | change
    model = golden_swin()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_official_checkpoint(model, {key: value for key, value in weights.items() if value is not None})
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "options",
    [
        {"variant": "v3"},
        {"scale": "scalar"},
        {"kernel_sizes": (3,)},
        {"conv_bias": False},
        {"output_scale": "stream"},
        {"norm": "batch"},
    ],
)
def test_other_designs_have_no_official_naming(options):
    with pytest.raises(ValueError, match="not of the official design"):
        to_official_state_dict(golden_swin(**options))


def test_a_model_without_the_adapter():
    with pytest.raises(ValueError, match="no transformers Swin with a Mona adapter 'other'"):
        to_official_state_dict(golden_swin(), "other")
    with pytest.raises(ValueError, match="no transformers Swin with a Mona adapter 'default'"):
        to_official_state_dict(get_peft_model(TINY_MODELS["vit-model"].build(), MonaConfig()))


def test_nothing_in_a_file_is_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    torch.save({"layers.0.x": Trap()}, tmp_path / "evil.pth")
    with pytest.raises(Exception, match="[Ww]eights.only"):
        load_official_checkpoint(golden_swin(), tmp_path / "evil.pth")
    assert not (tmp_path / "executed").exists()


UNCOPYABLE = {
    "sparse": lambda t: t.to_sparse(),
    "quantised": lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
    "meta": lambda t: t.to("meta"),
    "complex": lambda t: t.to(torch.complex64),
    "integers": lambda t: t.to(torch.int8),
    "no tensor": lambda t: t.tolist(),
}


@pytest.mark.parametrize("change", UNCOPYABLE.values(), ids=UNCOPYABLE)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_cannot_be_copied_leave_the_model_unchanged(change):
    model = get_peft_model(TINY_MODELS["swin-model"].build(), MonaConfig())
    official = {key: value + 1 for key, value in to_official_state_dict(model, include_backbone=True).items()}
    for key in ("layers.1.blocks.1.my_module_2.project2.weight", "layers.0.blocks.0.attn.qkv.weight"):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(ValueError, match=rf"unchanged.*cannot be copied.*{key}"):
            load_official_checkpoint(model, {**official, key: change(official[key])})
        after = model.state_dict()
        assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.filterwarnings("ignore")
def test_a_model_without_data_is_refused():
    model = get_peft_model(TINY_MODELS["swin-model"].build(), MonaConfig())
    official = to_official_state_dict(model)
    with pytest.raises(ValueError, match="in the model: no data"):
        load_official_checkpoint(model.to("meta"), official)
