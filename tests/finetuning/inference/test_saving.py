"""`mona_peft.save`: models of any origin become repositories that load by themselves and say so in their card."""

import json
import re
import subprocess
import sys
import warnings

import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from PIL import Image
from transformers import SwinForImageClassification, Trainer, TrainingArguments, ViTImageProcessor

import mona_peft
from mona_peft.finetuning.model_card import MARK
from mona_peft.finetuning.validation import RepositoryError
from tests.finetuning.tasks.tiny_classifier import write_classifier
from tests.support.models import images, randomise

PICTURES = [Image.new("RGB", (30, 20), (200, 10, 90))]
NAMES = ["rose", "daisy | *x*", "<b>poppy</b>"]
PROCESSOR = ViTImageProcessor(size={"height": 32, "width": 32})
MONA = {"bottleneck_dim": 4, "modules_to_save": ["classifier"]}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_classifier(tmp_path_factory.mktemp("saving") / "base")


def classifier(base):
    return SwinForImageClassification.from_pretrained(base, num_labels=3, ignore_mismatched_sizes=True)


def adapted(base, config=None):
    model = get_peft_model(classifier(base), config or mona_peft.MonaConfig(**MONA)).eval()
    randomise(model)
    return model


@pytest.mark.parametrize("method", ["mona", "lora", "add_adapter", "none"])
def test_what_a_loop_trained_loads_with_its_names(base, tmp_path, method):
    if method == "add_adapter":
        model = classifier(base).eval()
        model.add_adapter(mona_peft.MonaConfig(**MONA))
        randomise(model)
    elif method == "none":
        model = classifier(base).eval()
        for parameter in model.swin.parameters():
            parameter.requires_grad_(False)
    else:
        lora = LoraConfig(target_modules=["q_proj"], r=2, modules_to_save=["classifier"])
        model = adapted(base, lora if method == "lora" else None)
    folder = mona_peft.save(model, tmp_path / "flowers", PROCESSOR, NAMES, "user/pets", {"test": {"accuracy": 0.5}})
    loaded = mona_peft.load(folder)
    assert torch.allclose(loaded.model(images()).logits, model(images()).logits, atol=1e-6)
    assert {found["label"] for found in loaded.predict(PICTURES)[0]} == set(NAMES)
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == "image-classification" and card.data.datasets == ["user/pets"]
    assert card.data.library_name == ("mona-peft" if method == "none" else "peft")
    assert card.data.model_name == "flowers" and card.data.eval_results[0].metric_value == 0.5
    assert "More Information" not in card.text and "needs more" not in card.text and str(tmp_path) not in str(card)


def test_the_cards_example_runs_as_it_stands(base, tmp_path):
    folder = mona_peft.save(adapted(base), tmp_path / "flowers", PROCESSOR, NAMES)
    Image.new("RGB", (30, 20), "red").save(tmp_path / "image.jpg")
    (example,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "rose" in done.stdout, done.stderr


def test_after_transformers_trainer(base, tmp_path):
    """Trainer leaves PEFT's blank card and no names; one more line mends both, in the same folder."""
    model = adapted(base)
    trainer = Trainer(model, TrainingArguments(str(tmp_path), report_to=[], use_cpu=True), processing_class=PROCESSOR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.save_model()
    assert mona_peft.load(tmp_path).predict(PICTURES)[0][0]["label"].startswith("LABEL_")
    mona_peft.save(trainer.model, tmp_path, trainer.processing_class, NAMES)
    assert mona_peft.load(tmp_path).predict(PICTURES)[0][0]["label"] in NAMES
    assert MARK in (tmp_path / "README.md").read_text()


def test_a_card_written_by_hand_stays(base, tmp_path):
    tmp_path.joinpath("README.md").write_text("---\nlicense: mit\n---\n# My flowers\n")
    mona_peft.save(adapted(base), tmp_path, PROCESSOR, NAMES)
    assert tmp_path.joinpath("README.md").read_text() == "---\nlicense: mit\n---\n# My flowers\n"


@pytest.mark.parametrize("first", ["default", "birds"])
def test_the_active_adapter_is_the_one_that_is_loaded(base, tmp_path, first):
    model = get_peft_model(classifier(base), mona_peft.MonaConfig(**MONA), first).eval()
    randomise(model)
    expected = {first: model(images()).logits}
    assert torch.allclose(
        mona_peft.load(mona_peft.save(model, tmp_path / "one", PROCESSOR, NAMES)).model(images()).logits,
        expected[first],
    )
    model.add_adapter("second", mona_peft.MonaConfig(**MONA))
    model.set_adapter("second")
    randomise(model, ".second.")
    expected["second"] = model(images()).logits
    folder = mona_peft.save(model, tmp_path / "two", PROCESSOR, NAMES)
    assert torch.allclose(mona_peft.load(folder).model(images()).logits, expected["second"], atol=1e-6)
    other = PeftModel.from_pretrained(classifier(base), folder / first).eval()
    assert torch.allclose(other(images()).logits, expected[first], atol=1e-6)
    assert not torch.allclose(*expected.values(), atol=1e-2)


def test_adapters_that_act_together_are_not_saved_as_one(base, tmp_path):
    lora = LoraConfig(target_modules=["q_proj"], r=2)
    model = adapted(base, lora)
    model.add_adapter("second", lora)
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(ValueError, match="active adapters are .*second.*Choose it with model.set_adapter"):
        mona_peft.save(model, tmp_path, PROCESSOR, NAMES)
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".safetensors"]


def test_what_trains_and_is_in_no_file_is_told(base, tmp_path):
    model = adapted(base)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mona_peft.save(model, tmp_path, PROCESSOR, NAMES)
    model.get_base_model().swin.layernorm.requires_grad_(True)
    with pytest.warns(UserWarning, match="2 parameters train and are not saved .*swin.layernorm.weight"):
        mona_peft.save(model, tmp_path, PROCESSOR, NAMES)


def test_a_model_that_another_one_in_the_folder_would_hide_is_refused(base, tmp_path):
    """An adapter is read before a delta, and that before a whole model."""
    whole, delta = classifier(base), classifier(base)
    delta.swin.requires_grad_(False)
    for name, hiding, hidden in (
        ("one", adapted(base), whole),
        ("two", adapted(base), delta),
        ("three", delta, whole),
    ):
        folder = mona_peft.save(hiding, tmp_path / name, PROCESSOR, NAMES)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(ValueError, match=r"holds a.*_config\.json\), which would be loaded in place of a"):
            mona_peft.save(hidden, folder, PROCESSOR, NAMES)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    mona_peft.save(whole, tmp_path / "four", PROCESSOR, NAMES)
    folder = mona_peft.save(delta, tmp_path / "four", PROCESSOR, NAMES)  # as after Trainer, which saves all of it
    assert type(mona_peft.load(folder).model) is SwinForImageClassification


def test_timm_models_come_back_by_their_name(tmp_path, monkeypatch):
    timm = pytest.importorskip("timm")
    torch.manual_seed(4)
    asked, create, settings = [], timm.create_model, {"img_size": 32, "depth": 2, "embed_dim": 32, "num_heads": 2}
    base = create("vit_tiny_patch16_224", **settings, num_classes=3)
    weights = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    model = get_peft_model(base, mona_peft.MonaConfig(bottleneck_dim=4, modules_to_save=["head"])).eval()
    randomise(model)
    folder = mona_peft.save(model, tmp_path / "birds", PROCESSOR, NAMES)
    name = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    assert ModelCard.load(folder / "README.md").data.base_model == name

    def download(asked_for, pretrained=False, **options):
        asked.append(asked_for)
        made = create("vit_tiny_patch16_224", **settings, **options)
        if pretrained:
            made.load_state_dict(weights)
        return made

    monkeypatch.setattr(timm, "create_model", download)
    loaded = mona_peft.load(folder)
    assert set(asked) == {f"hf-hub:{name}"}
    assert torch.allclose(loaded.model(images()), model(images()), atol=1e-6)
    assert {found["label"] for found in loaded.predict(PICTURES)[0]} == set(NAMES)
    (folder / "labels.json").write_text(json.dumps({"labels": "rose"}))
    with pytest.raises(RepositoryError, match="labels='?rose'? must be a list of names"):
        mona_peft.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["a"]}, "1 labels for a model of 3 classes"),
        ({"labels": "abc"}, "must be a list of different texts"),
        ({"labels": ["a", "a", "b"]}, "must be a list of different texts"),
        ({"labels": ["a", "b", 3]}, "must be a list of different texts"),
        ({"processor": object()}, "has no save_pretrained"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_anything_is_written(base, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        mona_peft.save(adapted(base), tmp_path / "x", **change)
    assert not (tmp_path / "x").exists()
    with pytest.raises(ValueError, match="no PeftModel"):
        mona_peft.save(torch.nn.Linear(2, 2), tmp_path / "x")


WITHOUT_US = """
import sys
from peft import PeftConfig
try:
    PeftConfig.from_pretrained(sys.argv[1])
except KeyError as error:
    print("KeyError", error, open(sys.argv[1] + "/adapter_config.json").read())
"""


def test_a_file_that_peft_alone_cannot_read_names_the_package(base, tmp_path):
    folder = mona_peft.save(adapted(base), tmp_path / "flowers", PROCESSOR, NAMES)
    done = subprocess.run([sys.executable, "-c", WITHOUT_US, str(folder)], capture_output=True, text=True)
    assert "KeyError 'MONA'" in done.stdout and "import mona_peft before PEFT" in done.stdout
    assert "`import mona_peft` must come before" in (folder / "README.md").read_text()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(PeftConfig.from_pretrained(folder), mona_peft.MonaConfig)
    content = json.loads((folder / "adapter_config.json").read_text())
    content.pop("provided_by")  # as files from before it have it
    (folder / "adapter_config.json").write_text(json.dumps(content))
    assert mona_peft.load(folder).predict(PICTURES)
