"""The classification task: loss, metrics, head, options, and what a run writes."""

import json
import shutil

import datasets
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from peft import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

import mona_peft
from mona_peft import select_salient_channels
from mona_peft.finetuning.data.classification.dataset import ClassificationData
from mona_peft.finetuning.data.sources.classification import load_data
from mona_peft.finetuning.models.classifier import load_classifier
from mona_peft.finetuning.pictures.classification import (
    confusion_matrix,
    draw_confusion,
    draw_mistakes,
    worst_mistakes,
)
from mona_peft.finetuning.tasks.classification import (
    ClassificationConfig,
    ClassificationMeter,
    ClassificationTask,
)
from mona_peft.finetuning.training import Trainer
from mona_peft.finetuning.training.run import run_task
from mona_peft.finetuning.training.run_folder import read_log
from tests.finetuning.tasks.tiny_classifier import configs, train_classifier, write_classifier

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_classifier(tmp_path_factory.mktemp("base"))


def task_of(base, **changes) -> ClassificationTask:
    data, classification, _ = configs(base, None)
    for name, value in changes.items():
        setattr(classification, name, value)
    return ClassificationTask(load_data(data), classification)


class Logits(torch.nn.Module):
    """A model that gives the same logits to every image."""

    def __init__(self, logits):
        super().__init__()
        self.logits_ = torch.tensor(logits)

    def forward(self, pixel_values):
        return type("Output", (), {"logits": self.logits_.expand(len(pixel_values), -1)})


def test_loss_is_cross_entropy_with_smoothing(base):
    model = Logits([[1.0, 2.0, 3.0, 0.0, -1.0]])
    batch = {"pixel_values": torch.zeros(2, 3, 4, 4), "labels": torch.tensor([2, 4])}
    loss = task_of(base, label_smoothing=0.1).loss(model, batch)
    expected = F.cross_entropy(model.logits_.expand(2, -1), batch["labels"], label_smoothing=0.1)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def multilabel_task(base) -> ClassificationTask:
    rows = {"image": [Image.new("RGB", (8, 8))] * 4, "label": [[1, 0, -1]] * 4}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Sequence(datasets.Value("int8"))})
    split = datasets.Dataset.from_dict(rows, features=features)
    data = ClassificationData("toy", {"train": split, "test": split}, ("a", "b", "c"), multilabel=True)
    return ClassificationTask(data, ClassificationConfig(model=str(base), method="fixed"))


def test_multilabel_loss_leaves_out_what_does_not_count(base):
    task = multilabel_task(base)
    batch = {"pixel_values": torch.zeros(1, 3, 4, 4), "labels": torch.tensor([[1, 0, -1]])}
    first, second = (task.loss(Logits([[1.0, 2.0, left_out]]), batch) for left_out in (5.0, -5.0))
    assert first == second
    assert first.item() == pytest.approx((np.log1p(np.exp(-1)) + np.log1p(np.exp(2))) / 2)
    assert task.best_metric == "map"


def test_multilabel_run(base):
    trainer = Trainer(multilabel_task(base), configs(base, None, num_epochs=1)[2])
    assert trainer.train()["steps"] == 1
    meter = ClassificationMeter(multilabel=True)
    scores = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]])
    labels = torch.tensor([[1, 0, -1], [0, 1, 1]])
    meter.update({"scores": scores, "labels": labels, "loss": torch.ones(2), "index": torch.arange(2)})
    assert meter.compute() == {"loss": 1.0, "map": 1.0}


def test_mixing_and_smoothing_are_refused_for_several_labels(base):
    data = multilabel_task(base).data
    with pytest.raises(ValueError, match="one label an image"):
        ClassificationTask(data, ClassificationConfig(model=str(base), mixup=0.1))


def test_mixed_batches_train(base):
    data, classification, training = configs(base, None, num_epochs=1)
    classification.mixup, classification.cutmix = 0.2, 1.0
    assert np.isfinite(train_classifier(data, classification, training)["test"]["loss"])


def test_head_starts_fresh_unless_it_knows_the_classes(base):
    torch.manual_seed(1)
    seven = [f"LABEL_{number}" for number in range(7)]
    kept = load_classifier(str(base), seven)
    fresh = load_classifier(str(base), [f"other {number}" for number in range(7)])
    again = load_classifier(str(base), [f"other {number}" for number in range(7)])
    assert torch.equal(kept.classifier.weight, load_classifier(str(base), seven).classifier.weight)
    assert not torch.equal(fresh.classifier.weight, kept.classifier.weight)
    assert not torch.equal(fresh.classifier.weight, again.classifier.weight)
    assert fresh.classifier.bias.abs().max() == 0
    assert torch.equal(fresh.swin.layernorm.weight, kept.swin.layernorm.weight)


def test_drop_path(base, tmp_path):
    assert load_classifier(str(base), ["a"], drop_path=0.3).config.drop_path_rate == 0.3
    from transformers import ViTForImageClassification

    from tests.support.models import vit_config

    ViTForImageClassification(vit_config()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="vit models have no drop_path_rate"):
        load_classifier(str(tmp_path), ["a"], drop_path=0.3)


def test_meter_puts_samples_in_order():
    meter = ClassificationMeter(multilabel=False)
    for index in ([2, 0], [1]):
        meter.update(
            {
                "scores": torch.eye(3)[index],
                "labels": torch.tensor(index),
                "loss": torch.tensor(index).float(),
                "index": torch.tensor(index),
            }
        )
    assert meter.num_samples == 3
    assert meter.collected()["labels"].tolist() == [0, 1, 2]
    assert meter.compute() == {"loss": 1.0, "accuracy": 1.0, "mean_class_accuracy": 1.0}


def test_confusion_and_mistakes():
    counts = confusion_matrix(np.array([0, 1, 1, 2]), np.array([0, 0, 1, 1]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    scores = torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0], [5.0, 0.0]])
    labels = torch.tensor([1, 0, 1, 1])
    assert worst_mistakes(scores, labels, 5).tolist() == [3, 0]
    assert worst_mistakes(scores, labels, 1).tolist() == [3]


def test_a_run_writes_figures_and_pictures(base, tmp_path):
    figures = train_classifier(*configs(base, tmp_path / "run", report_to=["tensorboard"]))
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == figures
    for picture in ("curves", "confusion_validation", "confusion_test", "mistakes_test"):
        with Image.open(tmp_path / "run" / f"{picture}.png") as image:
            assert np.asarray(image).std() > 1
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))
    assert figures["test"]["num_samples"] == 600
    records = read_log(tmp_path / "run" / "metrics.jsonl")
    assert [record["kind"] for record in records].count("validation") == 2


@pytest.mark.parametrize("changes", [{"mixed_precision": "bf16"}, {"channels_last": True}, {"deterministic": True}])
def test_numeric_options_train(base, changes):
    data, classification, training = configs(base, None, num_epochs=3, learning_rate=2e-2, **changes)
    AcceleratorState._reset_state()  # accelerate allows one precision a process
    try:
        figures = train_classifier(data, classification, training)
    finally:
        torch.use_deterministic_algorithms(False)
        AcceleratorState._reset_state()
    assert figures["validation"]["accuracy"] > 0.2 and np.isfinite(figures["test"]["loss"])


@pytest.mark.slow
def test_compiled_training_is_the_same(base, tmp_path):
    logs = []
    for name, compiled in (("plain", False), ("compiled", True)):
        data, classification, training = configs(
            base,
            tmp_path / name,
            num_epochs=1,
            batch_size=10,
            torch_compile=compiled,
            torch_compile_backend="aot_eager",
        )
        classification.drop_path = 0.0
        classification.method_options = {"bottleneck_dim": 4, "mona_dropout": 0.0}
        train_classifier(data, classification, training)
        logs.append([record["loss"] for record in read_log(tmp_path / name / "metrics.jsonl")])
    assert logs[0] == pytest.approx(logs[1], abs=1e-4)
    assert (tmp_path / "compiled" / "model" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"method_options": "{r: 4}"}, "no JSON"),
        ({"method_options": "[1]"}, "must be a mapping"),
        ({"method_options": {"r": 4}}, "The method 'mona' has no setting r; it has .*bottleneck_dim"),
        ({"method": "monna"}, "Unknown method 'monna'"),
        ({"crop_scale": [0.5]}, "crop_scale"),
        ({"label_smoothing": 2.0}, "label_smoothing"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ClassificationConfig(**changes)


def test_options_may_come_as_a_mapping():
    assert ClassificationConfig(method="lora", method_options={"r": 4}).method_options == {"r": 4}
    assert ClassificationConfig(method="lora", method_options='{"r": 4}').method_options == {"r": 4}


def test_streams_train_end_to_end(base, tmp_path):
    """Parquet shards as a stream: every figure over the whole test split, the training measured in steps."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dark", "light"])})
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        rows = {
            "image": [Image.new("L", (8, 8), 200 * (i % 2)) for i in range(24)],
            "label": [i % 2 for i in range(24)],
        }
        table = datasets.Dataset.from_dict(rows, features=features)
        table.to_parquet(str(tmp_path / "data" / f"{split}-00000-of-00001.parquet"))
    data, classification, training = configs(base, tmp_path / "run", max_steps=12, eval_steps=6, learning_rate=2e-2)
    data.dataset, data.streaming, data.shots = str(tmp_path / "data"), True, None
    figures = train_classifier(data, classification, training)
    assert figures["steps"] == 12 and figures["test"]["num_samples"] == 24
    assert figures["test"]["accuracy"] > 0.9


def sct_task(base, **changes):
    data, classification, _ = configs(base, None, method="sct")
    classification.method_options = {"num_channels": 5}
    return ClassificationTask(load_data(data), classification, **changes)


def test_sct_trains_the_channels_of_the_training_images(base, tmp_path):
    task = sct_task(base)
    settings = configs(base, tmp_path / "run", method="sct", num_epochs=1)[2]
    run_task(task, settings)
    saved = load_file(tmp_path / "run" / "model" / "adapter_model.safetensors")
    torch.manual_seed(0)
    model = task.build_model()
    # The images one by one, in order, without the random crops and flips of training.
    plain = ClassificationTask(task.data.with_splits({"test": task.data.splits["train"]}), task.config)
    samples = [plain.dataset("test")[i] for i in range(len(task.data.splits["train"]))]
    select_salient_channels(model, [(s["pixel_values"][None], s["labels"][None]) for s in samples])
    expected = {key: tensor for key, tensor in get_peft_model_state_dict(model).items() if key.endswith(".channels")}
    assert len(expected) == 4 and all(torch.equal(saved[key], tensor) for key, tensor in expected.items())
    assert len({tuple(tensor.tolist()) for tensor in expected.values()} | {tuple(range(5))}) > 2
    loaded = mona_peft.load(tmp_path / "run" / "model").model
    kept = get_peft_model_state_dict(loaded)
    assert all(torch.equal(kept[key], tensor) for key, tensor in saved.items())


def test_a_run_is_not_resumed_on_renamed_classes(base, tmp_path):
    data, classification, training = configs(base, tmp_path)
    loaded = load_data(data)
    Trainer(ClassificationTask(loaded, classification), training).close()
    renamed = ClassificationData(loaded.name, loaded.splits, ("other", *loaded.class_names[1:]))
    training.resume = True
    with pytest.raises(ValueError, match=r"cannot be resumed.*class_names: \['5'\] then, \['other'\] now"):
        Trainer(ClassificationTask(renamed, classification), training)
    Trainer(ClassificationTask(loaded, classification), training).close()


def test_a_resumed_sct_run_keeps_its_channels(base, tmp_path, monkeypatch):
    options = {"method": "sct", "checkpoint_steps": 1, "save_total_limit": 99}
    Trainer(sct_task(base), configs(base, tmp_path, **options)[2]).train()
    checkpoints = sorted(tmp_path.glob("checkpoint-*"))
    expected = load_file(checkpoints[-1] / "trainable.safetensors")
    for folder in checkpoints[3:]:
        shutil.rmtree(folder)
    calls = []
    monkeypatch.setattr(ClassificationTask, "calibrate", lambda self, *args: calls.append(args))
    Trainer(sct_task(base), configs(base, tmp_path, resume=True, **options)[2]).train()
    assert calls == []
    found = load_file(checkpoints[-1] / "trainable.safetensors")
    assert found.keys() == expected.keys() and sum(key.endswith(".channels") for key in found) == 4
    assert all(torch.equal(found[key], expected[key]) for key in found)


def test_sct_refuses_data_without_one_label_an_image(base):
    task = multilabel_task(base)
    task.config.method = "sct"
    with pytest.raises(ValueError, match="'sct' looks at all training images by class first, but these have several"):
        Trainer(task, configs(base, None)[2])
    task = sct_task(base)
    stream = task.data.splits["train"].to_iterable_dataset()
    task.data = task.data.with_splits({"train": stream})
    with pytest.raises(ValueError, match="but these are a stream"):
        Trainer(task, configs(base, None, max_steps=2)[2])


def test_pictures_of_any_class_name_and_number(tmp_path):
    names = ["$_$", "a$b", "$\\frac{", "\\", "_x", "中"]
    labels = torch.arange(6).numpy()
    draw_confusion(confusion_matrix(labels, labels, 6), names, tmp_path / "confusion.png")
    rows = [{"image": Image.new("RGB", (8, 8)), "label": label} for label in range(6)]
    data = ClassificationData("odd", {"test": rows}, tuple(names))
    draw_mistakes(data, "test", torch.arange(6), torch.eye(6).roll(1, 0), tmp_path / "mistakes.png")
    assert (tmp_path / "confusion.png").stat().st_size > 5000 and (tmp_path / "mistakes.png").exists()


def test_a_confusion_picture_of_very_many_classes_is_left_out_and_told(tmp_path):
    task = ClassificationTask.__new__(ClassificationTask)
    task.data = ClassificationData("large", {"test": []}, tuple(map(str, range(50_000))))
    meter = ClassificationMeter(multilabel=False)
    scores = torch.zeros(2, 50_000).index_fill_(1, torch.tensor([3]), 1.0)
    meter.update({"scores": scores, "labels": torch.tensor([3, 3]), "index": torch.arange(2), "loss": torch.zeros(2)})
    with pytest.warns(UserWarning, match=r"confusion_test\.png is left out: 50000 classes"):
        task.report(meter, "test", tmp_path)
    assert not (tmp_path / "confusion_test.png").exists()


def test_every_metric_knows_its_direction(tmp_path):
    """The loss selects the least one, and stops early when it no longer falls."""
    base = write_classifier(tmp_path / "model")
    data, classification, training = configs(base, tmp_path / "run", num_epochs=4, metric_for_best="loss")
    train_classifier(data, classification, training)
    losses = {r["step"]: r["loss"] for r in read_log(tmp_path / "run" / "metrics.jsonl") if r["kind"] == "validation"}
    figures = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert figures["best_loss"] == min(losses.values()) < max(losses.values())
    assert figures["validation"]["loss"] == pytest.approx(min(losses.values()))
    task = ClassificationTask(load_data(data), classification)
    assert set(task.metrics()) == {name for name in figures["validation"] if name != "num_samples"}
    training.metric_for_best, training.resume = "f1", True
    with pytest.raises(ValueError, match="no metric 'f1'.*accuracy"):
        Trainer(task, training)
