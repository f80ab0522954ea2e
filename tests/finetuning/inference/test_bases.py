"""A repository goes on the base model it was trained on, and on no other; adapters of any origin load."""

import json
import logging
import shutil
import threading
import warnings

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import SwinForImageClassification, Trainer, TrainingArguments, ViTImageProcessor

import mona_peft
from mona_peft.finetuning.inference.classification import LoadedClassifier
from mona_peft.finetuning.inference.loading import Loaded, load
from mona_peft.finetuning.methods import apply_method
from mona_peft.finetuning.models.building import build_model, head_paths
from mona_peft.finetuning.models.pretrained import LOADING_LOGGER, quiet_loading
from mona_peft.finetuning.repository import open_base, save_repository
from mona_peft.finetuning.validation import RepositoryError
from tests.finetuning.inference.saved import save
from tests.finetuning.tasks.tiny_classifier import write_classifier
from tests.finetuning.tasks.tiny_dense import ARCHITECTURE_OPTIONS, write_swin, write_vit
from tests.support.models import images, randomise, swin_config

PICTURES = [Image.new("RGB", (30, 20), (200, 10, 90)), Image.new("RGB", (20, 30), (1, 99, 3))]


def write(model, folder):
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    write_classifier(root / "base")
    for name, changes in {
        "deeper": {"depths": [2, 3]},
        "flatter": {"depths": [2, 1]},
        "wider": {"embed_dim": 32},
        "window": {"window_size": 2},
    }.items():
        write(SwinForImageClassification(swin_config(**{"patch_size": 4, "num_labels": 7} | changes)), root / name)
    write_vit(root / "vit")
    save(root / "base", root / "mona")
    save(root / "base", root / "fixed", "fixed")
    return root


@pytest.mark.parametrize("base", ["deeper", "flatter", "wider", "window", "vit"])
@pytest.mark.parametrize("method", ["mona", "fixed"])
def test_another_base_model_is_refused(root, method, base):
    with pytest.raises(RepositoryError, match=f"{base}.* cannot be loaded: .*(does not fit|no such)"):
        load(root / method, base_model=str(root / base))


def test_another_head_is_none_of_the_bases_business(root):
    other = SwinForImageClassification.from_pretrained(root / "base", num_labels=3, ignore_mismatched_sizes=True)
    other.save_pretrained(root / "three")
    one, two = load(root / "mona"), load(root / "mona", base_model=root / "three")
    assert torch.equal(one.model(images()).logits, two.model(images()).logits)


def test_the_base_of_a_classifier_may_lack_norms_but_no_weights(root, tmp_path):
    """Norms start the same wherever they are made; other missing weights would be random."""
    shutil.copytree(root / "base", tmp_path / "base")
    path = tmp_path / "base" / "model.safetensors"
    tensors = load_file(path)
    lacking = {name: tensor for name, tensor in tensors.items() if not name.startswith("swin.layernorm")}
    save_file(lacking, path, metadata={"format": "pt"})
    load(root / "mona", base_model=tmp_path / "base")
    lacking.pop("swin.embeddings.patch_embeddings.projection.weight")
    save_file(lacking, path, metadata={"format": "pt"})
    with pytest.raises(RepositoryError, match="it lacks swin.embeddings.patch_embeddings.projection.weight"):
        load(root / "mona", base_model=tmp_path / "base")


def test_an_adapter_is_no_base(root):
    with pytest.raises(RepositoryError, match="is an adapter itself"):
        open_base(str(root / "mona"))


@pytest.mark.parametrize("method", ["mona", "fixed"])
def test_dense_models_refuse_other_bases_and_missing_heads(tmp_path, method):
    from mona_peft.finetuning.data.dense.transforms import DenseSettings

    base = write_swin(tmp_path / "base")
    model = build_model("upernet", str(base), ["a", "b"], **ARCHITECTURE_OPTIONS["upernet"])
    options = {"bottleneck_dim": 4} if method == "mona" else {}
    model = apply_method(model, method, head=head_paths(model), **options)
    repository = save_repository(model, DenseSettings(64, 64).processor(), tmp_path / "repository")
    assert load(repository).predict(PICTURES)[0]["labels"].shape == (20, 30)
    config = transformers.AutoConfig.from_pretrained(base)
    for name, changes in {"flatter": {"depths": [1, 1, 1, 0]}, "deeper": {"depths": [1, 1, 1, 2]}}.items():
        config.depths = changes["depths"]
        write(SwinForImageClassification(config), tmp_path / name)
        with pytest.raises(RepositoryError, match="does not fit"):
            load(repository, base_model=tmp_path / name)
    with pytest.raises(RepositoryError, match="is a vit model"):
        load(repository, base_model=write_vit(tmp_path / "vit"))
    weights = next(repository.glob("*.safetensors"))
    tensors = load_file(weights)
    tensors.pop(next(name for name in tensors if name.endswith("decode_head.classifier.weight")))
    save_file(tensors, weights)
    with pytest.raises(RepositoryError, match="lacks .*decode_head.classifier.weight"):
        load(repository)


def test_loading_changes_no_global_state(root):
    logger = logging.getLogger(LOADING_LOGGER)
    before = transformers.logging.get_verbosity(), list(logger.filters), vars(torch.nn.init).copy()
    errors = []

    def work():
        try:
            load(root / "mona")
        except Exception as error:  # shown by the assertion
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert (transformers.logging.get_verbosity(), list(logger.filters), vars(torch.nn.init)) == before


def test_only_this_thread_is_quiet():
    logger, seen = logging.getLogger(LOADING_LOGGER), []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())
    logger.addHandler(handler)
    try:
        with quiet_loading():
            logger.warning("mine")
            thread = threading.Thread(target=logger.warning, args=("another's",))
            thread.start()
            thread.join()
            with quiet_loading():
                pass
            logger.warning("mine still")
        logger.warning("after")
    finally:
        logger.removeHandler(handler)
    assert seen == ["another's", "after"]


@pytest.mark.parametrize("method", ["lora", "mona"])
def test_what_plain_peft_saves(root, tmp_path, method):
    head = {"modules_to_save": ["classifier"]}
    lora, mona = LoraConfig(target_modules=["q_proj"], r=2, **head), mona_peft.MonaConfig(bottleneck_dim=4, **head)
    config = lora if method == "lora" else mona
    base = SwinForImageClassification.from_pretrained(root / "base", num_labels=3, ignore_mismatched_sizes=True)
    model = get_peft_model(base, config).eval()
    randomise(model, f"{method}_")
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "config.json").exists()
    loaded = load(tmp_path)
    assert isinstance(loaded, LoadedClassifier) and isinstance(loaded, Loaded)
    assert torch.allclose(loaded.model(images()).logits, model(images()).logits, atol=1e-6)
    assert len(loaded.predict(PICTURES)[0]) == 3 and loaded.predict(PICTURES)[0][0]["label"].startswith("LABEL_")


def test_labels_come_from_the_base(root, tmp_path):
    base = SwinForImageClassification.from_pretrained(root / "base")
    base.config.id2label = {number: f"name {number}" for number in range(7)}
    write(base, tmp_path / "named")
    base = SwinForImageClassification.from_pretrained(tmp_path / "named")
    get_peft_model(base, LoraConfig(target_modules=["q_proj"], r=2)).save_pretrained(tmp_path / "adapter")
    assert load(tmp_path / "adapter").predict(PICTURES)[0][0]["label"].startswith("name ")
    with pytest.raises(RepositoryError, match="does not fit|cannot be loaded"):
        load(tmp_path / "adapter", base_model=root / "wider")


@pytest.mark.parametrize("adapter", [True, False])
def test_what_transformers_trainer_saves(root, tmp_path, adapter):
    base = SwinForImageClassification.from_pretrained(root / "base")
    model = (
        get_peft_model(base, LoraConfig(target_modules=["q_proj"], modules_to_save=["classifier"]))
        if adapter
        else base
    )
    arguments = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Trainer(model, arguments, processing_class=processor).save_model()
    loaded = load(tmp_path)
    assert torch.allclose(loaded.model(images()).logits, model.eval()(images()).logits, atol=1e-6)
    assert len(loaded.predict(PICTURES)) == 2


def test_timm_models(tmp_path):
    timm = pytest.importorskip("timm")
    name = "vit_tiny_patch16_224"
    torch.manual_seed(4)
    settings = {"img_size": 32, "depth": 2, "embed_dim": 32, "num_heads": 2}
    base = timm.create_model(name, **settings, num_classes=5)
    timm.models.save_for_hf(base, tmp_path / "timm", model_args=settings)
    model = get_peft_model(base, mona_peft.MonaConfig(bottleneck_dim=4, modules_to_save=["head"])).eval()
    randomise(model)
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(RepositoryError, match="timm.*give that model"):
        load(tmp_path / "adapter")
    loaded = load(tmp_path / "adapter", base_model=f"local-dir:{tmp_path / 'timm'}")
    assert torch.allclose(loaded.model(images()), model(images()), atol=1e-6)
    found = loaded.predict(PICTURES, top_k=2)
    assert [len(each) for each in found] == [2, 2] and found[0][0]["label"].startswith("LABEL_")
    with pytest.raises(RepositoryError, match="does not fit"):
        load(tmp_path / "adapter", base_model=timm.create_model(name, **settings | {"embed_dim": 64}, num_classes=5))


def test_models_of_any_library(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(12, 8), nn.Linear(8, 3)

        def forward(self, pixel_values):
            return self.head(self.first(pixel_values.flatten(1)).relu())

    torch.manual_seed(0)
    base = Net()
    weights = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    model = get_peft_model(base, LoraConfig(target_modules=["first"], r=2, modules_to_save=["head"])).eval()
    randomise(model, "lora_")
    model.save_pretrained(tmp_path)
    fresh = Net()
    fresh.load_state_dict(weights)
    with pytest.raises(RepositoryError, match="base_model=model"):
        load(tmp_path)
    loaded = load(tmp_path, base_model=fresh)
    pixels = torch.randn(2, 3, 2, 2)
    assert torch.allclose(loaded.model(pixels), model(pixels), atol=1e-6)
    with pytest.raises(ValueError, match="image processor"):
        loaded.predict(PICTURES)
    with pytest.raises(RepositoryError, match="does not fit|cannot be loaded"):
        load(tmp_path, base_model=nn.Sequential(nn.Linear(12, 8)))


def test_a_repository_says_which_commit_of_the_base_it_was_trained_on(root, tmp_path, monkeypatch):
    asked = []

    def download(name, revision=None, token=None, allow_patterns=()):
        asked.append((name, revision, token))
        return str(root / "base")

    monkeypatch.setattr("mona_peft.finetuning.repository.snapshot_download", download)
    for method, file, key in (
        ("mona", "adapter_config.json", "revision"),
        ("fixed", "delta_config.json", "base_revision"),
    ):
        folder = shutil.copytree(root / method, tmp_path / method)
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**content, "base_model_name_or_path": "user/base", key: "abc123"}))
        load(folder, token="secret")
        assert asked.pop() == ("user/base", "abc123", "secret")
        loaded = load(folder, base_model="user/other", token="secret")
        assert asked.pop() == ("user/other", None, "secret")
        assert getattr(loaded.model, "name_or_path", None) == "user/other" or method == "mona"
    assert not asked
