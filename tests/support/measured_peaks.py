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

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}


def measure(methods: list[str], **settings: object) -> dict[str, int | None]:
    """The most that forward and backward pass hold besides weights, by method; after one step to warm up."""
    torch.set_num_threads(1)
    workload = build_workload(CostsConfig(**settings))  # type: ignore[arg-type]
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


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
