"""Classifiers of timm and torchvision by name, and images of another size: trained, saved, loaded, the same."""

import json
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    BitImageProcessor,
    Dinov2Config,
    Dinov2ForImageClassification,
    ViTForImageClassification,
    ViTImageProcessor,
)

import mona_peft
from mona_peft.finetuning.commands.main import run
from mona_peft.finetuning.models import torchvision_classifier
from mona_peft.finetuning.models.building import build_model
from mona_peft.finetuning.models.classifier import load_classifier
from mona_peft.finetuning.models.places import find_model
from mona_peft.finetuning.models.positions import set_image_size
from mona_peft.finetuning.tasks.semantic_segmentation import SemanticSegmentationConfig
from tests.finetuning.tasks.tiny_classifier import write_classifier
from tests.support.models import vit_config
from tests.support.photos import write_photos

COMMIT = "1" * 40
TIMM_ID = "timm/test_vit.r160_in1k"


def cache_timm(cache: Path) -> None:
    """Put random weights of timm's smallest ViT where the Hub's client keeps what it downloaded."""
    folder = cache / "models--timm--test_vit.r160_in1k"
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    model = timm.create_model("test_vit")
    settings = timm.get_pretrained_cfg("test_vit").to_dict()
    content = {"architecture": "test_vit", "num_classes": 1000, "pretrained_cfg": settings}
    (snapshot / "config.json").write_text(json.dumps(content))
    save_file(model.state_dict(), snapshot / "model.safetensors", metadata={"format": "pt"})


def train_and_load(place: Path, model: str, *flags: str):
    """Train on photos by the command, and give back the loaded result and its validation figures."""
    if not (place / "photos").exists():
        write_photos(place / "photos", each=4)
    words = ["--dataset", str(place / "photos"), "--model", model, "--output_dir", str(place / "run"), *flags]
    words += ["--max_steps", "2", "--batch_size", "4", "--cpu", "--report_to", "none", "--no_progress_bar"]
    figures = run("train", "classification", *words, "--method_options", '{"bottleneck_dim": 4}')
    return mona_peft.load(place / "run" / "model"), figures


def check_prediction(loaded, place: Path, figures, side: int) -> None:
    """Prepared as in the evaluation, and as accurate on the same photos."""
    held = json.loads((place / "run" / "metrics.json").read_text())["validation"]
    assert held == figures["validation"] and held["num_samples"] == 3
    assert loaded.prepare(Image.new("RGB", (200, 100))).shape == (1, 3, side, side)
    with Image.open(place / "photos" / "red" / "0.jpg") as image:
        (found,) = loaded.predict([image])
    assert {row["label"] for row in found} == {"red", "green", "blue"}
    assert sum(row["score"] for row in found) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("name", "side"), [("test_vit", None), ("timm/test_vit", 192)])
def test_a_timm_name(tmp_path, monkeypatch, name, side):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    cache_timm(tmp_path / "cache")
    assert find_model(name) == TIMM_ID
    loaded, figures = train_and_load(tmp_path, name, *(["--image_size", str(side)] if side else []))
    check_prediction(loaded, tmp_path, figures, side or 160)
    adapter = json.loads((tmp_path / "run" / "model" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == TIMM_ID and adapter["revision"] == COMMIT
    assert any("mona_" in key for key in loaded.model.state_dict())


@pytest.fixture
def tiny_torchvision(tmp_path, monkeypatch):
    """A small Swin that torchvision knows by name, with weights as if torchvision had them."""

    def build(weights=None, **options):
        return torchvision.models.SwinTransformer([4, 4], 16, [1, 1], [2, 2], [4, 4], **options)

    def pretrained(architecture):
        size = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
        return build().state_dict(), BitImageProcessor(**size), [f"class {number}" for number in range(1000)]

    monkeypatch.setitem(torchvision.models._api.BUILTIN_MODELS, "tiny_swin", build)
    monkeypatch.setattr(torchvision.models, "list_models", lambda module=None: ["tiny_swin"])
    monkeypatch.setattr(torchvision_classifier, "pretrained", pretrained)
    monkeypatch.setattr(torchvision_classifier.constants, "HF_HOME", str(tmp_path / "home"))


def test_a_torchvision_name(tmp_path, tiny_torchvision):
    loaded, figures = train_and_load(tmp_path, "torchvision/tiny_swin")
    check_prediction(loaded, tmp_path, figures, 32)
    adapter = json.loads((tmp_path / "run" / "model" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "torchvision/tiny_swin"
    assert str(tmp_path) not in (tmp_path / "run" / "model" / "config.json").read_text()
    base = load_classifier("torchvision/tiny_swin", ["a", "b"])
    stored = torchvision_classifier.write_pretrained("torchvision/tiny_swin")
    again = load_classifier(str(stored), ["a", "b"])
    for (key, value), other in zip(base.state_dict().items(), again.state_dict().values(), strict=True):
        assert "head" in key or torch.equal(value, other), key
    with pytest.raises(ValueError, match="torchvision has no classifier 'swan_t'; it has tiny_swin"):
        find_model("torchvision/swan_t")


def test_names_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="timm knows no model of that name. timm has "):
        find_model("vit_tinny")
    with pytest.raises(ValueError, match="The model folder .*nothing does not exist"):
        find_model(str(tmp_path / "nothing"))
    assert find_model("microsoft/swin-tiny-patch4-window7-224") == "microsoft/swin-tiny-patch4-window7-224"
    assert find_model("resnet-50") == "resnet-50"


def write_vit(folder: Path) -> str:
    torch.manual_seed(0)
    ViTForImageClassification(vit_config(initializer_range=0.2)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


def write_dinov2(folder: Path) -> str:
    sizes = {"image_size": 28, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    Dinov2ForImageClassification(Dinov2Config(**sizes)).save_pretrained(folder)
    BitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    return str(folder)


def write_swin(folder: Path) -> str:
    return str(write_classifier(folder))


def change_weights(folder: str, change) -> str:
    """Rename the tensors of a saved model; those that get no name are left out."""
    file = Path(folder) / "model.safetensors"
    named = {change(name): tensor for name, tensor in load_file(file).items()}
    save_file({name: tensor for name, tensor in named.items() if name}, file, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("change", "lacks"),
    [
        (lambda name: f"net.encoder.{name}", "it lacks vit.embeddings.cls_token"),
        (lambda name: name if ".1." not in name else None, "it lacks vit.*layers?.1"),
    ],
    ids=["a prefix", "a block"],
)
def test_weights_outside_the_head_must_be_in_the_files(tmp_path, change, lacks):
    folder = change_weights(write_vit(tmp_path / "vit"), change)
    with pytest.raises(ValueError, match=f"{folder} does not fit ViTForImageClassification .*{lacks}"):
        load_classifier(folder, ["a", "b", "c"])
    whole = build_model("upernet", write_vit(tmp_path / "whole"), ["a", "b"])
    whole.save_pretrained(tmp_path / "upernet")
    assert build_model("upernet", str(tmp_path / "upernet"), ["a", "b", "c"]).config.num_labels == 3
    with pytest.raises(ValueError, match=r"out_indices is \[1\], but .*upernet is a whole model on the stages \["):
        build_model("upernet", str(tmp_path / "upernet"), ["a", "b"], out_indices=[1])
    build_model("upernet", str(tmp_path / "upernet"), ["a", "b"], out_indices=whole.config.backbone_config.out_indices)
    dense = change_weights(str(tmp_path / "upernet"), change)
    with pytest.raises(ValueError, match="does not fit .*it lacks backbone"):
        build_model("upernet", dense, ["a", "b"])


def test_a_bare_backbone_without_head_is_loaded(tmp_path):
    folder = change_weights(write_vit(tmp_path / "vit"), lambda name: None if "classifier" in name else name)
    bare = change_weights(folder, lambda name: name.removeprefix("vit."))
    assert load_classifier(bare, ["a", "b", "c"]).config.num_labels == 3


@pytest.mark.parametrize(
    ("write", "method"),
    [(write_vit, "mona"), (write_vit, "bitfit"), (write_vit, "full"), (write_dinov2, "mona"), (write_swin, "mona")],
)
def test_image_size(tmp_path, write, method):
    base = write(tmp_path / "base")
    flags = ["--image_size", "48", "--method", method] + (["--method_options", "{}"] if method != "mona" else [])
    words = ["--dataset", str(write_photos(tmp_path / "photos", each=4)), "--model", base]
    words += ["--max_steps", "1", "--batch_size", "4", "--cpu", "--report_to", "none", "--no_progress_bar"]
    figures = run("train", "classification", *words, "--output_dir", str(tmp_path / "run"), *flags)
    loaded = mona_peft.load(tmp_path / "run" / "model")
    check_prediction(loaded, tmp_path, figures, 48)
    # transformers alone, which is told nothing of sizes, computes the same
    pipeline = loaded.pipeline()
    with Image.open(tmp_path / "photos" / "red" / "0.jpg") as image:
        (ours,), theirs = loaded.predict([image]), pipeline(image, top_k=5)
    assert [row["label"] for row in ours] == [row["label"] for row in theirs]


def test_positions_are_interpolated_as_transformers_does(tmp_path):
    base = ViTForImageClassification.from_pretrained(write_vit(tmp_path / "base")).eval()
    pixels = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        wanted = base(pixels, interpolate_pos_encoding=True).logits
        set_image_size(base, 48)
        assert torch.allclose(base(pixels).logits, wanted, atol=1e-6)
    assert base.config.image_size == 48
    with pytest.raises(ValueError, match="image_size is 50; the patches need a multiple of 4, such as 48"):
        set_image_size(base, 50)


def test_windows_that_do_not_fit_into_an_image_size_are_told_before_training(tmp_path):
    base, photos = write_swin(tmp_path / "base"), write_photos(tmp_path / "photos", each=4)
    words = ["--dataset", str(photos), "--model", base, "--output_dir", str(tmp_path / "run"), "--cpu"]
    with pytest.raises(ValueError, match="image_size is 16, which Swin.* does not take; its windows need 32 or more"):
        run("train", "classification", *words, "--image_size", "16", "--report_to", "none")
    assert not list((tmp_path / "run").glob("**/*.safetensors"))
    assert load_classifier(base, ["a", "b"], image_size=32).training is False


def test_image_size_decides_every_side_of_dense_tasks():
    config = SemanticSegmentationConfig(image_size=256)
    assert (config.short_side, config.long_side, config.crop_side) == (256, 1024, 256)
    with pytest.raises(ValueError, match="image_size 256 decides crop_side; leave one of them out"):
        SemanticSegmentationConfig(image_size=256, crop_side=100)
