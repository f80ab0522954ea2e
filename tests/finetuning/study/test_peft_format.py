"""Runs in the form of PEFT's own comparison."""

import json

from peft import PeftType

from mona_peft.finetuning.study.peft_format import write_comparison
from tests.finetuning.study.fakes import record

SETTINGS = {
    "benchmark": "clipart",
    "model": "dinov2-small-112",
    "batch_size": 10,
    "max_steps": 80,
    "eval_steps": 40,
    "max_grad_norm": 5.0,
    "weight_decay": 0.05,
    "schedule": "cosine",
}
#: What that comparison's own reader takes from each part.
RUN = ("experiment_name", "train_config", "peft_config", "total_time", "peft_branch", "created_at")
TRAIN = ("accelerator_memory_reserved_avg", "accelerator_memory_max", "accelerator_memory_reserved_99th")
TRAIN += ("train_time", "file_size", "status", "metrics")
LAST = ("test accuracy", "train loss", "train samples", "train total tokens")
VERSIONS = ("peft", "transformers", "datasets", "torch", "bitsandbytes")


def runs():
    made = {"versions": {"torch": "2.14", "peft": "0.21"}, "created": "2026-01-01T00:00:00+00:00", "data": "abc"}
    made |= {"losses": [[40, 0.7], [80, 0.5]], "validations": [[40, 0.6], [80, 0.8]], "seconds": 12.5}
    for label, method, options in (
        ("mona", "mona", {"bottleneck_dim": 8}),
        ("lora16", "lora", {"r": 16}),
        ("full", "full", {}),
        ("norm", "norm", {}),
    ):
        yield record(label, 1e-3, 0, 0.8, 0.75, method=method, options=options, **made)


def test_files_have_what_that_comparison_reads(tmp_path):
    stale = tmp_path / "mona-lr0.1-seed0.json"
    stale.write_text("{}")
    paths = write_comparison(tmp_path, list(runs()), SETTINGS)
    assert sorted(tmp_path.iterdir()) == sorted(paths) and not stale.exists()
    entries = {path.name.split("-")[0]: json.loads(path.read_text()) for path in paths}
    assert entries.keys() == {"mona", "lora16", "full"}, "parts of the model have no place there"
    for entry in entries.values():
        assert all(name in entry["run_info"] for name in RUN) and all(name in entry["train_info"] for name in TRAIN)
        assert all(name in entry["train_info"]["metrics"][-1] for name in LAST)
        assert all(f"{name}-version" in entry["meta_info"]["package_info"] for name in VERSIONS)
        assert entry["train_info"]["status"] == "success" and entry["run_info"]["train_config"]["seed"] == 0
    first, second, last = entries["mona"]["train_info"]["metrics"]
    assert (first["valid accuracy"], second["train samples"], last["test accuracy"]) == (0.6, 800, 0.75)
    adapters = {name: entry["run_info"]["peft_config"] for name, entry in entries.items()}
    assert adapters["full"] is None and adapters["lora16"]["r"] == 16
    assert adapters["mona"]["peft_type"] == PeftType.MONA and adapters["mona"]["bottleneck_dim"] == 8
