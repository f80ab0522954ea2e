"""The benchmark measures what it says, and its script runs."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
import weakref

import pytest
import torch
from torch import nn

from mona_peft.finetuning.costs.config import SUBJECT_NAMES, CostsConfig
from mona_peft.finetuning.costs.measure import peak_bytes, time_interleaved
from mona_peft.finetuning.costs.memory import saved_bytes
from mona_peft.finetuning.costs.models import SWIN_SIZES, build_model, model_config
from mona_peft.finetuning.costs.subjects import DEFAULT_SUBJECTS, SUBJECTS, prepare
from tests.support.benchmark_script import SCRIPT, TINY, script_main

CPU = torch.device("cpu")


def test_counting_saved_bytes_leaves_nothing_behind():
    """The graph of an exponential, which keeps its own output, is freed."""
    x, alive = torch.ones(10, requires_grad=True), weakref.WeakSet()

    class Mark:
        pass

    def forward():
        output = x.exp()
        mark = Mark()
        alive.add(mark)
        output.grad_fn.metadata["mark"] = mark  # lives as long as the graph
        return output.sum()

    assert saved_bytes(forward, nn.Module()) >= 40
    gc.collect()
    assert not alive


def test_saved_bytes_counts_each_storage_once_and_no_parameters():
    layer = nn.Linear(8, 16, bias=False)
    x = torch.randn(4, 8, requires_grad=True)

    def forward():
        hidden = layer(x)  # keeps x and the weight
        return (hidden.sigmoid() * hidden.view(4, 16)).sum()  # keeps the sigmoid's result (twice) and hidden

    assert saved_bytes(forward, layer) == 4 * (4 * 8 + 2 * 4 * 16)


def test_times_are_interleaved_and_compared_within_rounds():
    order: list[str] = []

    def call(name, seconds):
        order.append(name)
        time.sleep(seconds)

    calls = {"a": lambda: call("a", 0.01), "b": lambda: call("b", 0.03)}
    timings = time_interleaved(calls, "a", repeats=4, warmup=1, device=CPU)
    assert order == ["a", "b", "b", "a"] * 2 + ["a", "b"]
    assert timings["a"].ratio == 1 and 1.5 < timings["b"].ratio <= 3.5
    assert timings["b"].low <= timings["b"].median <= timings["b"].high


def test_quartiles_lie_among_the_times():
    ticks = iter([0, 1, 10, 13])  # two calls of one and three seconds
    timing = time_interleaved({"a": lambda: None}, "a", repeats=2, warmup=0, device=CPU, clock=lambda: next(ticks))[
        "a"
    ]
    assert 1 <= timing.low < timing.median == 2 < timing.high <= 3


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a process's peak memory")
def test_peak_memory_sees_a_large_tensor():
    size = 64 * 2**20
    peak = peak_bytes(lambda: torch.ones(size, dtype=torch.uint8), CPU)
    pages = 2**20  # already mapped before, and used again
    assert size - pages <= peak < 1.5 * size + 2**24


def test_floor_goes_back_to_the_first_layer_and_trains_one_bias():
    model, start_up = prepare("floor", build_model(model_config("swin-nano", 32)))
    assert start_up is None
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        "swin.embeddings.patch_embeddings.projection.bias"
    ]


def test_published_sizes():
    for name, millions in (("swin-t", 27.5), ("swin-b", 86.7), ("vit-b", 85.8)):
        with torch.device("meta"):
            model = build_model(model_config(name, 224))
        backbone = model.base_model
        assert sum(p.numel() for p in backbone.parameters()) / 1e6 == pytest.approx(millions, abs=0.3)
    assert set(SWIN_SIZES) >= {"swin-t", "swin-s", "swin-b", "swin-l"}


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"dtype": "int3"}, "int3"),
        ({"methods": ["magic"]}, "magic"),
        ({"clock": "sun"}, "sun"),
        ({"task": "poetry"}, "poetry.*semantic_segmentation"),
        ({"autocast": "int8"}, "int8.*bfloat16"),
        ({"autocast": "bfloat16", "dtype": "float16"}, "dtype='float16'.*--autocast bfloat16 alone"),
        ({"task": "detection", "dtype": "bfloat16"}, "heads of dense tasks need float32"),
        ({"architecture": "upernet"}, "upernet.*--task semantic_segmentation"),
        ({"architecture_options": '{"hidden_size": 1}'}, "hidden_size.*--task semantic_segmentation"),
        ({"processes": 0}, "processes is 0; it must be .*at least 1"),
        ({"batch_size": 0}, "batch_size is 0; it must be .*at least 1"),
        ({"repeats": 0}, "repeats is 0; it must be .*at least 1"),
        ({"processes": 2, "clock": "process"}, "--clock wall"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CostsConfig(**settings)


def test_unknown_models_are_refused():
    with pytest.raises(ValueError, match="nothing-like-that"):
        model_config("nothing-like-that", 224)


def test_kernels_for_a_gpu_are_measured_on_request_and_on_one_only(tmp_path):
    assert set(SUBJECTS) - set(DEFAULT_SUBJECTS) == {"mona-triton"}
    assert set(SUBJECTS) == set(SUBJECT_NAMES)
    with pytest.raises(ValueError, match="mona-triton .* the model is on cpu; add `--device cuda`"):
        script_main([*TINY, "--methods", "mona-triton", "--output_dir", str(tmp_path)])


def test_script_measures_all_methods(tmp_path, capsys):
    results = script_main([*TINY, "--output_dir", str(tmp_path)])
    assert json.loads((tmp_path / "benchmark.json").read_text()) == json.loads(json.dumps(results))
    assert (tmp_path / "benchmark.png").read_bytes()[:4] == b"\x89PNG"
    rows = {row["method"]: row for row in results["rows"]}
    assert list(rows) == DEFAULT_SUBJECTS
    assert rows["floor"]["step"]["ratio"] == 1 and rows["floor"]["trainable"] == 16
    assert rows["fixed"]["saved"] < rows["floor"]["saved"] < rows["mona"]["saved"] < rows["mona-plain"]["saved"]
    for name in ("lora", "mona", "mona-plain"):
        assert all(seconds > 0 for seconds in rows[name]["start_up"].values())
    assert rows["mona"]["trainable"] == rows["mona-plain"]["trainable"] > rows["fixed"]["trainable"]
    table = capsys.readouterr().out
    assert all(f"| {name} |" in table for name in DEFAULT_SUBJECTS)


def test_script_plots_scaling(tmp_path):
    scale = ["--scale_batch_size", "1", "2", "--scale_image_size", "32", "64", "--inference", "false"]
    results = script_main([*TINY, *scale, "--methods", "mona", "--output_dir", str(tmp_path)])
    assert {name: len(points) for name, points in results.items()} == {"batch_size": 2, "image_size": 2}
    saved = [[row["saved"] for row in point["rows"]] for point in results["batch_size"]]
    assert saved[1][0] == pytest.approx(2 * saved[0][0], rel=0.1) and saved[1][1] > saved[0][1]
    assert (tmp_path / "scaling.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((tmp_path / "scaling.json").read_text())


@pytest.mark.slow
def test_script_is_launched(tmp_path):
    command = [sys.executable, str(SCRIPT), *TINY, "--dtype", "bfloat16", "--threads", "1", "--compile", "true"]
    command += ["--methods", "mona", "--output_dir", str(tmp_path)]
    subprocess.run(command, check=True, timeout=900)
    assert (tmp_path / "benchmark.json").exists()


@pytest.mark.slow
def test_the_package_does_not_import_the_benchmark():
    code = "import sys, mona_peft; sys.exit('mona_peft.finetuning.costs' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
