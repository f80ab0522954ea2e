"""The modes of the benchmark do what they are called, the profile counts, and the pictures show it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from torch import distributed, nn

from mona_peft.finetuning.costs import pictures
from mona_peft.finetuning.costs.config import CostsConfig
from mona_peft.finetuning.costs.measure import Timing
from mona_peft.finetuning.costs.memory import saved_bytes
from mona_peft.finetuning.costs.processes import process_threads, run_in_processes
from mona_peft.finetuning.costs.profiling import operations_table, profile_operations
from mona_peft.finetuning.costs.steps import build_subjects
from mona_peft.finetuning.costs.subjects import StartUp
from mona_peft.finetuning.costs.suite import Row
from tests.support.benchmark_script import SCRIPT, TINY, script_main


def nano(**changes):
    values = {"model": "swin-nano", "image_size": 32, "batch_size": 2, "methods": ["mona"]}
    return CostsConfig(**values | changes)


def mona_subject(**changes):
    return build_subjects(nano(**changes))["mona"]


@pytest.mark.parametrize("autocast", ["bfloat16", "float16"])
def test_autocast_computes_in_half_precision_and_trains(autocast):
    subject = mona_subject(autocast=autocast)
    dtypes = []
    linear = next(m for n, m in subject.model.named_modules() if isinstance(m, nn.Linear) and "mona" not in n)
    linear.register_forward_hook(lambda module, args, output: dtypes.append(output.dtype))
    trained = [p for p in subject.model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    subject.step()
    subject.infer()
    assert dtypes == [getattr(torch, autocast)] * 2
    assert subject.scaler.is_enabled() == (autocast == "float16")
    assert any(not torch.equal(p, old) for p, old in zip(trained, before, strict=True))
    assert all(p.isfinite().all() for p in trained)


def test_gradient_checkpointing_keeps_less():
    saved = [
        saved_bytes(subject.loss, subject.model)
        for subject in (mona_subject(), mona_subject(gradient_checkpointing=True))
    ]
    assert 0 < saved[1] < 0.5 * saved[0]


def test_channels_last_lays_out_images_and_weights():
    subject = mona_subject(channels_last=True)
    convolution = next(m for m in subject.model.modules() if isinstance(m, nn.Conv2d))
    for tensor in (convolution.weight, subject.batch["pixel_values"]):
        assert tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def test_threads_are_shared_among_the_processes(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert process_threads(nano()) == 8
    assert process_threads(nano(processes=3)) == 2
    assert process_threads(nano(processes=3, threads=5)) == 5


def test_modes_are_told():
    told = nano(autocast="bfloat16", processes=2, gradient_checkpointing=True).describe()
    assert told == "swin-nano, 32 px, batch 2, float32, cpu, autocast bfloat16, 2 processes, gradient checkpointing"


def test_profile_counts_the_calls_of_a_step():
    x = torch.randn(64, 64)
    operations = {one.name: one for one in profile_operations(lambda: (x @ x).relu() @ x, x.device, steps=4)}
    assert operations["aten::mm"].calls == 2 and operations["aten::relu"].calls == 1
    assert operations["aten::mm"].cpu > 0 and operations["aten::mm"].gpu == 0
    lines = operations_table(list(operations.values()), top=1).splitlines()
    assert len(lines) == 4 and lines[-1].startswith("| all |") and "100.0%" in lines[-1]


def test_script_profiles_the_chosen_methods(tmp_path, capsys):
    script_main([*TINY, "--profile", "--methods", "mona-plain", "mona", "--output_dir", str(tmp_path)])
    text = (tmp_path / "profile.txt").read_text()
    assert text.strip() in capsys.readouterr().out
    parts = {part.split(":")[0]: part for part in text.split("\n\n")[::2]}
    assert list(parts) == ["floor", "mona-plain", "mona"]
    tables = dict(zip(parts, text.split("\n\n")[1::2], strict=True))
    assert "_MonaBackward" in tables["mona"] and "_Mona" not in tables["mona-plain"]
    assert not (tmp_path / "benchmark.json").exists()


def test_a_profile_of_several_settings_is_refused(tmp_path):
    with pytest.raises(ValueError, match="batch_size: leave --scale_"):
        script_main([*TINY, "--profile", "--scale_batch_size", "1", "2", "--output_dir", str(tmp_path)])


def test_lines_show_the_share_of_adapters_with_labelled_axes(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(pictures, "_save", lambda figure, title, path: figures.append(figure))

    def row(method, ratio, saved, adapter):
        return Row(method, Timing(ratio, ratio, ratio, ratio), saved, None, None, adapter, 1)

    start_up = StartUp(1.0, 1.0, 1.0)
    rows = [row("floor", 1.0, 10, None), row("fixed", 0.5, 0, None), row("mona", 1.25, 12, start_up)]
    pictures.draw_lines({"batch_size": [(4, rows), (2, rows)], "model": [("b", rows), ("a", rows)]}, "", tmp_path)
    left, right = (figures[0].axes[column::2] for column in (0, 1))
    assert [axis.get_ylabel() for axis in left[:2]] == ["step, ms", "saved activations, MB"]
    assert [axis.get_yscale() for axis in left] == ["log", "log", "linear"]
    assert "(method - floor) / method" in left[2].get_ylabel()
    assert left[0].get_xlabel() == "batch, images" and right[0].get_xlabel() == "model"
    (share,) = [line for line in left[2].lines if line.get_label() == "mona"]
    assert share.get_xdata().tolist() == [2, 4] and share.get_ydata() == pytest.approx([0.2, 0.2])
    assert not any(line.get_label() in ("floor", "fixed") for line in left[2].lines)
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["floor", "fixed", "mona"]
    figures[0].savefig(tmp_path / "drawn.png")  # also draws what is only drawn then


def train_together(config):
    """Steps of each method; whether the processes end up the same, and with batches of their own."""
    same, batches = [], []
    for subject in build_subjects(config).values():
        for _ in range(2):
            subject.step()
        trained = torch.cat([p.detach().flatten() for p in subject.model.parameters() if p.requires_grad])
        for values, results in ((trained, same), (subject.batch["pixel_values"].flatten(), batches)):
            others = [torch.empty_like(values) for _ in range(config.processes)]
            distributed.all_gather(others, values)
            results.append(torch.equal(others[0], others[1]))
    return same, batches, torch.get_num_threads()


@pytest.mark.slow
def test_processes_train_one_model_on_batches_of_their_own():
    same, batches, threads = run_in_processes(train_together, nano(processes=2, threads=1, methods=["lora", "mona"]))
    assert same == [True] * 3 and batches == [False] * 3 and threads == 1


@pytest.mark.slow
def test_script_times_two_processes(tmp_path):
    command = [sys.executable, str(SCRIPT), *TINY, "--processes", "2", "--autocast", "bfloat16"]
    command += ["--gradient_checkpointing", "true", "--methods", "mona", "--output_dir", str(tmp_path)]
    subprocess.run(command, check=True, timeout=900)
    results = json.loads((tmp_path / "benchmark.json").read_text())
    assert results["config"]["processes"] == 2 and [row["method"] for row in results["rows"]] == ["floor", "mona"]
