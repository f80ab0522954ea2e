"""Measure what true training steps hold, in a process of its own: `python -m tests.support.measured_peaks '{...}'`.

The C library gives memory of 64 kB and more back at once if it is told so before the process starts, in `ALLOCATOR`;
else it keeps what was freed, and the process's memory tells little.
"""

from __future__ import annotations

import copy
import json
import sys

import torch

from mona_peft.finetuning.costs.config import CostsConfig
from mona_peft.finetuning.costs.measure import peak_bytes
from mona_peft.finetuning.costs.subjects import task_head
from mona_peft.finetuning.costs.workloads import build_workload
from mona_peft.finetuning.methods import apply_method
from mona_peft.finetuning.models.detector_base import Objects

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}


def measure(methods: list[str], objects: int = 0, **settings: object) -> dict[str, int | None]:
    """The most that forward and backward pass hold besides weights, by method; after one step to warm up.

    Args:
        methods (`list[str]`): Methods.
        objects (`int`): Of each image of a detector.
        **settings: Of `CostsConfig`.
    """
    torch.set_num_threads(1)
    workload = build_workload(CostsConfig(**settings))  # type: ignore[arg-type]
    if objects:
        workload.batch["targets"] = deal_objects(workload.batch["targets"], objects)
    found = {}
    for method in methods:
        model = apply_method(copy.deepcopy(workload.base), method, task_head(workload.base)).train()
        workload.finish(model, gradient_checkpointing=False)

        def step(model: torch.nn.Module = model) -> None:
            workload.loss(model, workload.batch).backward()

        for _ in range(2):
            model.zero_grad(set_to_none=True)
            found[method] = peak_bytes(step, torch.device("cpu"))
    return found


def deal_objects(targets: list[Objects], count: int) -> list[Objects]:
    """Objects of all images, so many to each in turn."""
    every = {key: torch.cat([target[key] for target in targets]) for key in targets[0]}
    rows = torch.arange(len(targets) * count).reshape(-1, count) % len(every["labels"])
    return [{key: values[row] for key, values in every.items()} for row in rows]


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
