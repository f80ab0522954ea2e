"""Runs of every dense task that are killed, launched in two processes, or started as scripts."""

import json
import subprocess
import sys
import time
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import mona_peft
from mona_peft.finetuning.data.dense.targets import training_targets
from mona_peft.finetuning.data.embedded.scene_objects import scene_objects
from mona_peft.finetuning.models.architectures import ARCHITECTURES as ALL
from mona_peft.finetuning.study.demo import run_dense_demo
from mona_peft.finetuning.study.testbeds.scene_models import MODELS
from mona_peft.finetuning.training import Trainer
from mona_peft.finetuning.training.run_folder import read_log
from tests.finetuning.tasks.tiny_dense import ARCHITECTURES, SCENES, SIZES, tiny_task, tiny_training
from tests.finetuning.training.killing import kill_until_done
from tests.finetuning.training.launching import ROOT, launch
from tests.finetuning.training.test_kill import assert_same_run
from tests.support.datasets import write_coco

SCRIPTS = {
    "upernet": "train_semantic_segmentation.py",
    "retinanet": "train_detection.py",
    "cascade_mask_rcnn": "train_instance_segmentation.py",
}


def train(architecture, swin, folder, resume):
    Trainer(
        tiny_task(architecture, swin), tiny_training(folder, num_epochs=3, checkpoint_steps=1, resume=resume)
    ).train()


@pytest.mark.parametrize("architecture", ["upernet"])
def test_stopped_in_the_middle_and_resumed(swin, architecture, tmp_path):
    check_resume(swin, architecture, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["retinanet", "conditional_detr", "cascade_mask_rcnn", "mask2former"])
def test_stopped_in_the_middle_and_resumed_too(swin, architecture, tmp_path):
    check_resume(swin, architecture, tmp_path)


class Stopped(Exception):
    pass


def check_resume(swin, architecture, tmp_path):
    """A run stopped inside its second epoch, its third batch never seen, ends as one that was not."""
    train(architecture, swin, tmp_path / "whole", resume=False)
    task = tiny_task(architecture, swin)
    whole_loss, calls = task.loss, []

    def loss(model, batch):
        calls.append(1)
        if len(calls) == 4:
            raise Stopped
        return whole_loss(model, batch)

    task.loss = loss
    with pytest.raises(Stopped):
        Trainer(task, tiny_training(tmp_path / "cut", num_epochs=3, checkpoint_steps=1)).train()
    train(architecture, swin, tmp_path / "cut", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("architecture", sorted(SCRIPTS))
def test_killed_at_any_moment(swin, architecture, tmp_path):
    """Both runs are in processes of their own: what earlier tests left here may change the last bits of a sum."""
    started = time.perf_counter()
    kill_until_done(train, (architecture, swin, tmp_path / "whole"), kills=0, longest=0)
    moment = (time.perf_counter() - started) / 8  # so that it takes several kills, on a machine at any load
    arguments = (architecture, swin, tmp_path / "cut")
    assert kill_until_done(train, arguments, kills=4, longest=moment) >= 2
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def as_flags(architecture, swin, folder, **changes):
    """Command line of a tiny run on the embedded scenes."""
    config = asdict(tiny_task(architecture, swin).config)
    known = {field.name for field in fields(tiny_training())}
    training = {name: value for name, value in asdict(tiny_training(folder)).items() if name in known}
    scenes = {"dataset": "scenes", "scene_size": 64, "train_scenes": 6, "validation_scenes": 5, "test_scenes": 0}
    words = []
    for name, value in {**config, **training, **scenes, **changes}.items():
        if value is None or value == []:
            continue
        words.append(f"--{name}")
        values = value if isinstance(value, list) else [value]
        words += [json.dumps(one) if isinstance(one, dict) else str(one) for one in values]
    return words


@pytest.mark.slow
@pytest.mark.parametrize("architecture", sorted(SCRIPTS))
def test_two_processes_evaluate_as_one(swin, architecture, tmp_path):
    """Five validation scenes in two processes are five, each counted once; the figures are those of one process."""
    script = ROOT / "tests" / "finetuning" / "tasks" / "evaluate_tiny.py"
    words = [[architecture, str(swin), str(tmp_path / f"{processes}.json")] for processes in (1, 2)]
    subprocess.run([sys.executable, str(script), *words[0]], check=True)
    launch("src/mona_peft/finetuning/recipes/accelerate/cpu.yaml", script, words[1])
    metrics = [json.loads(Path(line[-1]).read_text()) for line in words]
    assert [one.pop("processes") for one in metrics] == [1, 2]
    assert metrics[0]["num_samples"] == metrics[1]["num_samples"] == 5
    assert metrics[0].keys() == metrics[1].keys()
    for name, value in metrics[0].items():
        assert value == pytest.approx(metrics[1][name], abs=1e-4), name


@pytest.mark.slow
@pytest.mark.parametrize("architecture", sorted(SCRIPTS))
def test_a_killed_script_resumes_and_its_model_predicts(swin, architecture, tmp_path):
    script = ROOT / "scripts" / SCRIPTS[architecture]
    command = [sys.executable, str(script), *as_flags(architecture, swin, tmp_path / "run", num_epochs=4)]
    process = subprocess.Popen(command)
    while len(read_log(tmp_path / "run" / "metrics.jsonl")) < 4:
        assert process.poll() is None, "the run ended before it was killed"
        time.sleep(0.01)
    process.kill()
    process.wait()
    subprocess.run([*command, "--resume", "True"], check=True)
    figures = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert figures["steps"] == 8 and figures["validation"]["num_samples"] == 5
    image = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 80, 3), np.uint8)).save(image)
    predict = [sys.executable, str(ROOT / "scripts" / "predict.py"), "--model", str(tmp_path / "run" / "model")]
    output = tmp_path / "found.json"
    drawn = ["--draw_dir", str(tmp_path / "drawn"), "--threshold", "0.01", "--output", str(output)]
    subprocess.run([*predict, "--images", str(image), *drawn], check=True)
    (row,) = json.loads(output.read_text())
    assert row["image"] == str(image)
    assert ("classes" in row) == (architecture == "upernet") and ("boxes" in row) != (architecture == "upernet")
    pictures = sorted((tmp_path / "drawn").glob("*.png"))
    assert len(pictures) == (2 if architecture == "upernet" else 1)


def test_a_run_that_evaluates_by_sliding_windows(swin, tmp_path):
    task = tiny_task("upernet", swin, evaluation="slide", crop_side=32, stride=16)
    trainer = Trainer(task, tiny_training(tmp_path, num_epochs=2))
    best = trainer.train()["best_mean_iou"]

    def mean_iou(**changes):
        for name, value in changes.items():
            setattr(task.config, name, value)
        metrics = trainer.evaluate("validation")[0]
        assert metrics["num_samples"] == 5
        return metrics["mean_iou"]

    assert mean_iou() == pytest.approx(best, abs=1e-6)
    one_window, whole = mean_iou(crop_side=64, stride=40), mean_iou(evaluation="whole")
    assert one_window == pytest.approx(whole, abs=1e-6) and whole != pytest.approx(best, abs=1e-6)


def test_a_saved_segmenter_predicts_as_it_was_evaluated(swin, tmp_path):
    task = tiny_task("upernet", swin, evaluation="slide", crop_side=32, stride=16)
    trainer = Trainer(task, tiny_training(tmp_path / "run", num_epochs=1))
    trainer.save(trainer.train())
    loaded = mona_peft.load(tmp_path / "run" / "model")
    batch = task.collate("validation")([task.dataset("validation")[0]])
    with torch.no_grad():
        expected = task.logits(loaded.model, batch)[0].argmax(0)
    image = task.data.read(task.data.splits["validation"][0])[0]
    (found,) = loaded.predict([image])
    assert np.array_equal(found["labels"], expected)
    config = loaded.bare_model().config
    assert config.sliding_windows == [32, 16]
    config.sliding_windows = None
    assert not np.array_equal(loaded.predict([image])[0]["labels"], expected)
    file = tmp_path / "run" / "model" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "sliding_windows": [32, 0]}))
    with pytest.raises(ValueError, match=r"config.json cannot be loaded: sliding_windows is \[32, 0\]; it must be"):
        mona_peft.load(tmp_path / "run" / "model")


def test_trains_on_coco_with_a_bad_file_left_out(swin, tmp_path, capsys):
    """The official layout from disk: with an unreadable file training names it, or leaves it out when told to."""
    from mona_peft.finetuning.data.sources.dense import ObjectDataConfig, load_objects

    write_coco(scene_objects(SIZES, SCENES), tmp_path)
    bad = sorted((tmp_path / "train").iterdir())[0]
    bad.write_bytes(b"broken")
    names = {"train_annotations": "annotations/instances_train.json", "train_images": "train"}
    names |= {"validation_annotations": "annotations/instances_validation.json", "validation_images": "validation"}
    config = ObjectDataConfig(dataset="coco", data_dir=str(tmp_path), **names)
    task = tiny_task("retinanet", swin, data=load_objects(config))
    with pytest.raises(ValueError, match=bad.name):
        Trainer(task, tiny_training(num_epochs=1)).train()
    config.skip_bad_images = True
    data = load_objects(config)
    assert bad.name in capsys.readouterr().out
    assert len(data.splits["train"]) == SIZES["train"] - 1
    assert all(training_targets(image, data.category_ids, False) for image in data.splits["train"])
    assert Trainer(tiny_task("retinanet", swin, data=data), tiny_training(num_epochs=1)).train()["steps"] == 2


def test_the_demo_refuses_another_tasks_model(tmp_path):
    with pytest.raises(ValueError, match="'upernet'; choose one of retinanet, detr, conditional_detr"):
        run_dense_demo("detection", "upernet", "tiny", tmp_path)
    with pytest.raises(ValueError, match="'huge'; choose one of full, tiny"):
        run_dense_demo("detection", "detr", "huge", tmp_path)
    assert set(MODELS) == set(ARCHITECTURES) and not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("architecture", MODELS)
def test_the_demo(architecture, tmp_path):
    result = run_dense_demo(ALL[architecture].task, architecture, "tiny", tmp_path)
    assert [row["method"] for row in result["rows"]] == ["mona", "fixed", "full"]
    assert all(len(row["test"]) == 2 and 0 <= min(row["test"]) <= max(row["test"]) <= 1 for row in result["rows"])
    trains = {row["method"]: row["backbone_trainable"] for row in result["rows"]}
    assert trains["fixed"] == 0 < trains["mona"] < trains["full"]
    assert len({row["head_trainable"] for row in result["rows"]}) == 1
    with Image.open(result["pictures"]) as sheet:
        assert min(sheet.size) > 300
    repositories = list(Path(tmp_path / "tiny" / architecture / "models").glob("mona-*/model"))
    assert len(repositories) == 2
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in repositories)
    assert first.keys() == second.keys() and not all(torch.equal(first[name], second[name]) for name in first)
    backbone = tmp_path / "tiny" / "pretrained" / MODELS[architecture].backbone / "model"
    assert mona_peft.load(repositories[0]).model.config.name_or_path == str(backbone.resolve())
