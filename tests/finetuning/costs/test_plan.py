"""The plan of memory: against what training holds, what it says of a GPU's memory, and its command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BeitConfig, Dinov2Config, PretrainedConfig, SwinConfig, Swinv2Config, ViTConfig

import mona_peft
from mona_peft.finetuning.commands.main import run
from mona_peft.finetuning.costs.live import StepBytes, follow_step
from mona_peft.finetuning.costs.plan import BATCHES, _align, _moments, plan, plan_subject, plan_workload
from mona_peft.finetuning.costs.plan_config import PRECISIONS, PlanConfig, read_bytes
from mona_peft.finetuning.costs.plan_report import plan_table
from mona_peft.finetuning.models.architectures import ARCHITECTURES
from tests.support.benchmark_script import write_swin
from tests.support.measured_peaks import ALLOCATOR

ROOT = Path(__file__).parents[3]
WIDE = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 384}
CONFIGS: dict[str, PretrainedConfig | None] = {
    "swin-nano": None,
    "vit": ViTConfig(**WIDE),
    "dinov2": Dinov2Config(hidden_size=96, num_hidden_layers=3, num_attention_heads=3, patch_size=16),
    "swinv2": Swinv2Config(embed_dim=24, depths=[1, 1], num_heads=[2, 4], window_size=7),
    "beit": BeitConfig(**WIDE),
}
METHODS = ["full", "bitfit", "lora", "mona"]


def named(name: str, folder: Path) -> str:
    """A model's name, or the path of its configuration."""
    config = CONFIGS[name]
    if config is None:
        return name
    config.save_pretrained(folder)
    return str(folder / "config.json")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a process's peak memory")
@pytest.mark.parametrize("name", CONFIGS)
def test_peaks_are_those_of_true_steps(name, tmp_path):
    """Within a tenth, at a batch that the plan did not run."""
    check_peaks({"model": named(name, tmp_path), "image_size": 224}, METHODS, 8)


def check_peaks(asked: dict[str, Any], methods: list[str], batch: int, **objects: int) -> None:
    """Compare a plan with a true step."""
    rows = plan(**asked, **objects, method=methods, memory="1GB", precision=["float32"])
    asked = {**asked, **objects, "methods": methods, "batch_size": batch}
    command = [sys.executable, "-m", "tests.support.measured_peaks", json.dumps(asked)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, **ALLOCATOR, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    planned = {row.method: row.passing(batch) for row in rows}
    ratios = {method: measured[method] / planned[method] for method in methods}
    assert all(0.9 <= ratio <= 1.1 for ratio in ratios.values()), ratios


#: Of every image, so that there are as many positives as Cascade Mask R-CNN takes.
OBJECTS = 4
CASCADE = {"training_proposals": 100, "heads": {"rois_per_image": 32, "positive_share": OBJECTS / 32}}
#: Side of the images and settings. Convolutions of RetinaNet's head take room besides tensors, much for small images.
DETECTORS: dict[str, tuple[int, dict[str, Any]]] = {
    "retinanet": (224, {}),
    "detr": (128, {}),
    "conditional_detr": (128, {"decoder_layers": 2}),
    "cascade_mask_rcnn": (128, CASCADE),
    "mask2former": (128, {"decoder_layers": 3, "train_num_points": 3000}),
}
SWIN = {"embed_dim": 24, "depths": [1] * 4, "num_heads": [1, 2, 4, 8], "window_size": 4}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a process's peak memory")
@pytest.mark.parametrize("name", DETECTORS)
def test_peaks_of_detectors_are_those_of_true_steps(name, tmp_path):
    """Within a tenth, at a batch that the plan did not run."""
    size, options = DETECTORS[name]
    SwinConfig(image_size=size, **SWIN).save_pretrained(tmp_path)
    asked = {"model": str(tmp_path / "config.json"), "image_size": size, "task": ARCHITECTURES[name].task}
    asked |= {"architecture": name, "architecture_options": options}
    check_peaks(asked, ["full", "lora", "mona"], 6, objects=OBJECTS)


TINY_DETR = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 5}
TINY_DETECTORS: dict[str, dict[str, Any]] = {
    "retinanet": {"fpn_channels": 16},
    "detr": TINY_DETR,
    "conditional_detr": TINY_DETR,
    "cascade_mask_rcnn": {"fpn_channels": 16, "heads": {"rois_per_image": 8, "box_features": 16}},
    "mask2former": {"encoder_layers": 1, "decoder_layers": 2, "num_queries": 5, "train_num_points": 64},
}


@pytest.mark.parametrize("name", TINY_DETECTORS)
def test_every_detector_can_be_followed(name, tmp_path):
    config = PlanConfig(
        model=write_swin(tmp_path),
        image_size=64,
        task=ARCHITECTURES[name].task,
        architecture=name,
        architecture_options=TINY_DETECTORS[name],
        objects=3,
    )
    with plan_subject({BATCHES[0]: plan_workload(config, BATCHES[0])}, "mona", "float32") as subject:
        step = subject.follow(BATCHES[0], checkpointed=False)
    assert 0 < step.saved < step.peak


def test_tasks_without_objects_are_told_from_those_with_them():
    config = PlanConfig(task="detection", objects=3)
    assert "detection, 3 objects an image, 224 px" in plan_table(config, [])
    assert "objects" not in plan_table(PlanConfig(task="semantic_segmentation"), [])


def test_where_a_loss_goes_through_images_one_by_one_its_most_is_taken():
    """There are two passes over the images; 20 bytes an image and 7 are the most."""
    steps = [
        StepBytes(
            saved=0,
            history=[1, 2, *range(10 * b, 20 * b, 10), 20 * b + 7, *[15 * b] * b, 30, 31, 32, 33],
            operations=["embed", "block", *["match"] * b, "loss", *["back"] * b, *["block"] * 3, "embed"],
        )
        for b in BATCHES
    ]
    small, large = _align(*steps)
    assert small == [1, 2, 20 * BATCHES[0] + 7, 31, 32, 33] and large == [1, 2, 20 * BATCHES[1] + 7, 31, 32, 33]


def test_a_step_is_followed_as_it_is_counted_by_hand():
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.Sigmoid())
    x = torch.randn(32, 8)
    step = follow_step(model, lambda: model(x).sum())
    kept = 32 * 16  # the sigmoid's output; the input is not the step's
    assert step.saved == 4 * (kept + 1)  # and the loss
    # Backward: the gradient of the sigmoid's input, then of the weight; the gradient of its output takes one element.
    assert step.peak >= 4 * (2 * kept + 1) and step.peak <= 4 * (2 * kept + 8 * 16 + 3)
    assert all(p.grad is None for p in model.parameters())


def test_the_plan_of_a_tiny_model(tmp_path):
    full, mona = plan(named("vit", tmp_path), 64, ["full", "mona"], "1GB", precision=["float32"])
    assert full.weights >= full.gradients == 4 * full.trainable > 4 * mona.trainable == mona.gradients
    assert full.states == 2 * full.gradients
    for row in (full, mona):
        assert 0 < row.saved_checkpointed < row.saved < row.peak[0][1]
        assert 0 < row.batch <= row.batch_checkpointed
        assert row.total(row.batch) <= 10**9 < row.total(row.batch + 1)
        assert row.total(row.batch_checkpointed, True) <= 10**9 < row.total(row.batch_checkpointed + 1, True)


@pytest.mark.slow
def test_precisions(tmp_path):
    rows = {row.precision: row for row in plan(named("vit", tmp_path), 64, "full", "1MB")}
    assert list(rows) == list(PRECISIONS)
    assert rows["bfloat16"].weights < 0.6 * rows["float32"].weights == 0.6 * rows["autocast"].weights
    assert rows["bfloat16"].saved < 0.7 * rows["float32"].saved
    assert rows["bfloat16"].saved < rows["autocast"].saved < rows["float32"].saved
    assert all(row.batch == row.batch_checkpointed == 0 for row in rows.values())  # the weights alone take more


def test_the_command_and_the_function_say_the_same(capsys):
    words = ["--model", "swin-nano", "--image_size", "32", "--method", "mona", "--precision", "float32"]
    rows = run("plan", *words, "--memory", "2GiB")
    assert rows == mona_peft.plan("swin-nano", 32, "mona", "2GiB", precision=["float32"])
    text = capsys.readouterr().out
    assert "swin-nano, 32 px, 2GiB" in text and f"| {rows[0].batch} |" in text and "| mona | float32 |" in text


def test_small_batches_peak_where_gradients_are_and_large_ones_where_activations_are():
    """At two moments 100 + 2b and 10 + 5b bytes are held; a third is never the most."""
    assert _moments([104, 20, 15], [108, 30, 20]) == [(10, 5), (100, 2)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": ["magic"]}, "magic.*choose among"),
        ({"method": []}, "method is .*choose among full"),
        ({"precision": ["int3"]}, "int3.*float32, bfloat16, autocast"),
        ({"memory": "much"}, "memory is 'much'; it must be .* such as 24GB"),
        ({"memory": "0GB"}, "memory is '0GB'"),
        ({"image_size": 0}, "image_size is 0"),
        ({"task": "depth"}, "depth.*classification.*semantic_segmentation.*detection.*instance_segmentation"),
        ({"task": "detection", "objects": 0}, "objects is 0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PlanConfig(**settings)


@pytest.mark.parametrize(
    ("text", "count"), [("24GB", 24 * 10**9), ("1.5 GiB", 3 * 2**29), ("300mb", 3 * 10**8), ("7", 7)]
)
def test_amounts_of_memory(text, count):
    assert read_bytes(text) == count


@pytest.mark.slow
def test_segmentation_is_planned(tmp_path):
    """UperNet; checkpointing spares the backbone."""
    (row,) = plan(write_swin(tmp_path), 64, "mona", "2GB", task="semantic_segmentation", precision=["float32"])
    assert 0 < row.saved_checkpointed < row.saved < row.peak[0][1] and 0 < row.batch <= row.batch_checkpointed
