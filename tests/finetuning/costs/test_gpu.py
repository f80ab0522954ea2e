"""All that is measured on a GPU runs on a CPU with the device's name changed, and fills the page."""

from __future__ import annotations

import json
import runpy
import sys

import pytest
import torch

from mona_peft.finetuning.costs.gpu import CASES, FILE, GpuConfig, costs_of, gpu_summary, measure_gpu
from tests.support.benchmark_script import SCRIPT

TINY = {"device": "cpu", "models": ["swin-nano"], "image_size": 32, "batch_size": 2, "repeats": 1, "warmup": 0}


@pytest.mark.parametrize("case", ["float32", pytest.param("compiled, bfloat16 autocast", marks=pytest.mark.campaign)])
def test_a_case_runs_on_a_cpu(case, tmp_path, capsys):
    results = measure_gpu(GpuConfig(**TINY, cases=[case], output_dir=str(tmp_path)))
    assert json.loads((tmp_path / FILE).read_text()) == json.loads(json.dumps(results))
    (run,) = results["runs"]
    assert run["case"] == case and [row["method"] for row in run["rows"]] == ["floor", "lora", "mona-plain", "mona"]
    fewest = 100 if case == "float32" else 1  # a compiled step is a few kernels
    assert all(row["launches"] >= fewest for row in run["rows"])
    text = gpu_summary(results)
    assert "| launches |" in text and "| mona |" in text and "| mona |" in capsys.readouterr().out


@pytest.mark.campaign
def test_the_script_runs_every_case(tmp_path, monkeypatch):
    words = ["--device", "cpu", "--models", "swin-nano", "--image_size", "32", "--batch_size", "2", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["benchmark_gpu.py", *words, "--warmup", "0", "--output_dir", str(tmp_path)])
    runpy.run_path(str(SCRIPT.with_name("benchmark_gpu.py")), run_name="__main__")
    assert [run["case"] for run in json.loads((tmp_path / FILE).read_text())["runs"]] == list(CASES)


def test_on_a_gpu_triton_takes_part(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for case in CASES:
        costs = costs_of(GpuConfig(), "vit-b", case)
        assert costs.methods == ["floor", "lora", "mona-plain", "mona", "mona-triton"] and costs.launches
        assert costs.device == "cuda"


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="sideways.*choose cases among"):
        GpuConfig(device="cpu", cases=["sideways"])
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="PyTorch finds no GPU; --device cpu"):
            GpuConfig()
