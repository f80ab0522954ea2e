"""The benchmark of the dense tasks: their own models and losses, and every method trains what it says."""

from __future__ import annotations

import json

import pytest
import torch

from mona_peft.blocks.head import is_head
from mona_peft.finetuning.costs.config import CostsConfig
from mona_peft.finetuning.costs.steps import build_subjects
from mona_peft.finetuning.costs.workloads import build_workload
from mona_peft.finetuning.models.building import head_paths
from tests.finetuning.tasks.tiny_dense import ARCHITECTURE_OPTIONS
from tests.support.benchmark_script import script_main, write_swin

TASK_OF = {
    "upernet": "semantic_segmentation",
    "segformer": "semantic_segmentation",
    "retinanet": "detection",
    "conditional_detr": "detection",
    "cascade_mask_rcnn": "instance_segmentation",
    "mask2former": "instance_segmentation",
}


def dense_config(architecture, folder, **changes):
    options = json.dumps(ARCHITECTURE_OPTIONS[architecture])
    values = {"architecture": architecture, "architecture_options": options, "batch_size": 2, "image_size": 64}
    return CostsConfig(TASK_OF[architecture], write_swin(folder), **values | changes)


@pytest.mark.parametrize("architecture", TASK_OF)
def test_methods_train_what_they_say(architecture, tmp_path):
    subjects = build_subjects(dense_config(architecture, tmp_path, methods=["fixed", "full"]))
    head = head_paths(subjects["full"].model)
    reached = {}
    for name, subject in subjects.items():
        subject.loss().backward()
        parameters = dict(subject.model.named_parameters())
        assert all(p.requires_grad for path, p in parameters.items() if is_head(path, head))
        trained = {path for path, p in parameters.items() if p.requires_grad and not is_head(path, head)}
        # DDP waits for the gradient of all that trains
        assert all(p.grad is not None for path, p in parameters.items() if p.requires_grad)
        reached[name] = {path: parameters[path].grad.abs().sum() for path in trained}
    assert not reached["fixed"]
    ((path, gradient),) = reached["floor"].items()
    assert path.endswith("embeddings.patch_embeddings.projection.bias") and gradient > 0
    assert len(reached["full"]) > 60 and reached["full"][path] > 0


def test_scenes_are_as_large_as_asked_for_and_differ_between_processes(tmp_path):
    config = dense_config("cascade_mask_rcnn", tmp_path, image_size=96, processes=2)
    first, second = (build_workload(config, rank) for rank in (0, 1))
    assert first.batch["pixel_values"].shape == (2, 3, 96, 96)
    assert all(target["masks"].shape[1:] == (96, 96) for target in first.batch["targets"])
    assert sum(len(target["boxes"]) for target in first.batch["targets"]) > 0
    assert not torch.equal(first.batch["pixel_values"], second.batch["pixel_values"])


@pytest.mark.parametrize("architecture", ["upernet", "retinanet", "cascade_mask_rcnn"])
def test_script_measures_the_usual_architectures(architecture, tmp_path, capsys):
    words = ["--task", TASK_OF[architecture], "--model", write_swin(tmp_path), "--image_size", "64"]
    words += ["--batch_size", "2", "--repeats", "1", "--warmup", "0", "--methods", "fixed", "full", "mona"]
    words += ["--architecture_options", json.dumps(ARCHITECTURE_OPTIONS[architecture])]
    results = script_main([*words, "--output_dir", str(tmp_path / "out")])
    rows = {row["method"]: row for row in results["rows"]}
    assert rows["floor"]["trainable"] == rows["fixed"]["trainable"] + 8  # the bias of the patch embedding
    assert rows["fixed"]["trainable"] < min(rows["mona"]["trainable"], rows["full"]["trainable"])
    assert rows["fixed"]["saved"] < rows["floor"]["saved"] < rows["mona"]["saved"]
    assert all(row["inference"]["median"] > 0 for row in rows.values())
    assert (tmp_path / "out" / "benchmark.png").exists()
    printed = capsys.readouterr().out
    assert TASK_OF[architecture].replace("_", " ") in printed and "heads train too" in printed


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"architecture": "mask2former"}, "mask2former.*retinanet"),
        ({"architecture_options": "{"}, "architecture_options is no JSON"),
        ({"model": "vit-t"}, "--architecture conditional_detr"),
        ({"model": "swin-nano"}, "has stages 1 to 2; .2, 3, 4. were asked for"),
        ({"task": "semantic_segmentation", "architecture": "upernet", "model": "swin-nano"}, "needs 3 stages"),
        ({"task": "instance_segmentation", "architecture": "mask2former", "model": "swin-nano"}, "needs 3 stages"),
        ({"task": "classification", "architecture": "", "model": "swin-t"}, "its windows need 224 or more"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, message, tmp_path):
    config = dense_config("retinanet", tmp_path, architecture_options="{}")
    for name, value in changes.items():
        setattr(config, name, value)
    with pytest.raises(ValueError, match=message):
        build_subjects(config)


def test_one_image_is_too_few_for_upernet(tmp_path):
    with pytest.raises(ValueError, match="--batch_size 2"):
        build_subjects(dense_config("upernet", tmp_path, batch_size=1))
