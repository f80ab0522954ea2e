"""Several processes compute what one computes."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from mona_peft.finetuning.training.run_folder import read_log
from tests.finetuning.tasks.tiny_classifier import as_flags, configs, train_classifier, write_classifier
from tests.finetuning.training.launching import FSDP_ON_CPU, ROOT, SCRIPT, launch


def run_configs(model, folder, batch_size, **changes):
    """30 training scans; without dropout, so that a batch of 6 is the same as two of 3."""
    data, classification, training = configs(
        model, folder, batch_size=batch_size, eval_batch_size=7, num_epochs=2, **changes
    )
    data.shots = 6
    classification.drop_path = 0.0
    classification.method_options = {"bottleneck_dim": 4, "mona_dropout": 0.0}
    return data, classification, training


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_two_processes_train_and_evaluate_as_one(tmp_path, compiled):
    """The compiled ones stop and go on, too."""
    model = write_classifier(tmp_path / "model")
    train_classifier(*run_configs(model, tmp_path / "one", 6))
    settings = {"torch_compile": True, "torch_compile_backend": "aot_eager", "checkpoint_steps": 5}
    run = run_configs(model, tmp_path / "two", 3, **settings if compiled else {})
    launch("src/mona_peft/finetuning/recipes/accelerate/cpu.yaml", SCRIPT, as_flags(*run))
    if compiled:
        shutil.rmtree(tmp_path / "two" / "checkpoint-00000010")
        written = (tmp_path / "two" / "checkpoint-00000005").stat().st_mtime_ns
        launch("src/mona_peft/finetuning/recipes/accelerate/cpu.yaml", SCRIPT, [*as_flags(*run), "--resume"])
        assert (tmp_path / "two" / "checkpoint-00000005").stat().st_mtime_ns == written, "it started again"
    one, two = (json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("one", "two"))
    assert one["steps"] == two["steps"] == 10
    for split, size in (("validation", 100), ("test", 600)):
        assert one[split]["num_samples"] == two[split]["num_samples"] == size  # no multiple of 2 * 7
        assert one[split]["loss"] == pytest.approx(two[split]["loss"], abs=1e-4)
        assert one[split]["accuracy"] == pytest.approx(two[split]["accuracy"], abs=1.5 / size)
    logs = [[r for r in read_log(tmp_path / run / "metrics.jsonl") if r["kind"] == "train"] for run in ("one", "two")]
    assert [record["loss"] for record in logs[0]] == pytest.approx([record["loss"] for record in logs[1]], abs=1e-4)
    first, second = (load_file(tmp_path / run / "best.safetensors") for run in ("one", "two"))
    assert first.keys() == second.keys()
    for name in first:
        assert torch.allclose(first[name].float(), second[name].float(), atol=2e-3), name


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["src/mona_peft/finetuning/recipes/accelerate/cpu.yaml", FSDP_ON_CPU])
def test_processes_select_the_same_channels(tmp_path, recipe):
    model = write_classifier(tmp_path / "model")
    config = tmp_path / "accelerate.yaml"
    efficient = "  fsdp_cpu_ram_efficient_loading: false\n" if "fsdp" in recipe else ""
    config.write_text((ROOT / recipe).read_text() + efficient)
    for folder, batch_size in (("one", 6), ("two", 3)):
        data, classification, training = run_configs(model, tmp_path / folder, batch_size)
        classification.method, classification.method_options = "sct", {"num_channels": 5}
        if folder == "one":
            train_classifier(data, classification, training)
        else:
            launch(str(config), SCRIPT, as_flags(data, classification, training))
    first, second = (load_file(tmp_path / run / "model" / "adapter_model.safetensors") for run in ("one", "two"))
    assert first.keys() == second.keys() and sum(key.endswith(".channels") for key in first) == 4
    for name in first:
        assert torch.allclose(first[name].float(), second[name].float(), atol=2e-3), name


@pytest.mark.slow
def test_sharded_processes_train_as_one(tmp_path):
    model = write_classifier(tmp_path / "model")
    train_classifier(*run_configs(model, tmp_path / "one", 6))
    launch(
        FSDP_ON_CPU,
        SCRIPT,
        as_flags(*run_configs(model, tmp_path / "two", 3)),
    )
    one, two = (json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("one", "two"))
    assert two["test"]["num_samples"] == 600
    assert one["test"]["loss"] == pytest.approx(two["test"]["loss"], abs=1e-3)
    first, second = (load_file(tmp_path / run / "model" / "adapter_model.safetensors") for run in ("one", "two"))
    assert first.keys() == second.keys()
    for name in first:
        assert torch.allclose(first[name], second[name], atol=2e-3), name
