"""The plan of memory: against what training holds, what it says of a GPU's memory, and its command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BeitConfig, Dinov2Config, PretrainedConfig, Swinv2Config, ViTConfig

import mona_peft
from mona_peft.finetuning.commands.main import run
from mona_peft.finetuning.costs.live import follow_step
from mona_peft.finetuning.costs.plan import _moments, plan
from mona_peft.finetuning.costs.plan_config import PRECISIONS, PlanConfig, read_bytes
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
    model, batch = named(name, tmp_path), 8
    rows = plan(model, 224, METHODS, "1GB", precision=["float32"])
    asked = {"methods": METHODS, "model": model, "image_size": 224, "batch_size": batch}
    command = [sys.executable, "-m", "tests.support.measured_peaks", json.dumps(asked)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, **ALLOCATOR, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    planned = {row.method: row.passing(batch) for row in rows}
    ratios = {method: measured[method] / planned[method] for method in METHODS}
    assert all(0.9 <= ratio <= 1.1 for ratio in ratios.values()), ratios


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
    assert _moments([104, 20], [108, 30, 1]) == [(100, 2)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": ["magic"]}, "magic.*choose among"),
        ({"method": []}, "method is .*choose among full"),
        ({"precision": ["int3"]}, "int3.*float32, bfloat16, autocast"),
        ({"memory": "much"}, "memory is 'much'; it must be .* such as 24GB"),
        ({"memory": "0GB"}, "memory is '0GB'"),
        ({"image_size": 0}, "image_size is 0"),
        ({"task": "detection"}, "detection.*classification.*semantic_segmentation"),
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
