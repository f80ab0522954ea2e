"""Plan the memory of a training: what each method holds, and the largest batch that fits.

Forward and backward pass run on fake tensors: they have shapes and types and take no memory, and no time to speak of.
Each is run with two batches, from which the memory of any other follows: it grows by the same for every image.
What losses of detectors hold depends on values, which fake tensors do not have: `assumed.py` says what stands for
them.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._pytree import tree_map_only
from transformers import PreTrainedModel

from mona_peft.finetuning.methods import apply_method

from .assumed import assume_objects, assumed
from .config import CostsConfig
from .live import StepBytes, follow_step
from .models import LABELS, build_model, model_config
from .plan_config import PlanConfig, read_bytes
from .subjects import task_head
from .workloads import Batch, Workload, build_workload

STATES = 2  # of AdamW, for each trained value
BATCHES = (2, 4)


@dataclass
class PlanRow:
    """What one method holds in one precision; bytes.

    Args:
        method (`str`): Its name.
        precision (`str`): `float32`, `bfloat16` or `autocast`.
        trainable (`int`): Parameters that train.
        weights (`int`): Of the model, buffers included.
        gradients (`int`): Of what trains.
        states (`int`): Of AdamW.
        saved (`int`): Activations kept for the backward pass, an image.
        saved_checkpointed (`int`): The same with gradient checkpointing.
        peak (`list[tuple[int, int]]`): What a step holds besides weights and states at the moments that may be its
            peak: whatever the batch, and an image.
        peak_checkpointed (`list[tuple[int, int]]`): The same with gradient checkpointing.
        batch (`int`): The largest batch that fits; 0 if none does.
        batch_checkpointed (`int`): The same with gradient checkpointing.
    """

    method: str
    precision: str
    trainable: int
    weights: int
    gradients: int
    states: int
    saved: int
    saved_checkpointed: int
    peak: list[tuple[int, int]]
    peak_checkpointed: list[tuple[int, int]]
    batch: int
    batch_checkpointed: int

    def total(self, batch: int, checkpointed: bool = False) -> int:
        """Bytes of a training with batches of `batch` images."""
        return self.weights + self.states + self.passing(batch, checkpointed)

    def passing(self, batch: int, checkpointed: bool = False) -> int:
        """Those of them that a step holds besides weights and states, at its peak."""
        return max(fixed + each * batch for fixed, each in (self.peak_checkpointed if checkpointed else self.peak))


def plan(
    model: str = "swin-t",
    image_size: int = 224,
    method: list[str] | str = ("full", "fixed", "lora", "mona"),  # type: ignore[assignment]
    memory: str = "24GB",
    **settings: Any,
) -> list[PlanRow]:
    """Tell what training holds in memory, and the largest batch; without weights, data or GPU.

    Args:
        model (`str`): A size of Swin or ViT, such as `swin-t`, a path to a `config.json`, or a Hub name with a `/`.
        image_size (`int`): Height and width of the images, in pixels.
        method (`list[str]` or `str`): Methods.
        memory (`str`): What there is, such as `24GB` or `16GiB`. What the driver and PyTorch's allocator take on a GPU
            besides tensors, some hundred megabytes to a gigabyte, is to be left out of it.
        **settings: Further settings of `PlanConfig`: `precision`, `task`, `architecture`, `architecture_options`,
            `objects`.

    Returns:
        `list[PlanRow]`: A row for each method and precision.

    Raises:
        ValueError: If a setting cannot be.
    """
    methods = [method] if isinstance(method, str) else list(method)
    return plan_memory(PlanConfig(model=model, image_size=image_size, method=methods, memory=memory, **settings))


def plan_memory(config: PlanConfig) -> list[PlanRow]:
    """As [`plan`], from a configuration."""
    there, workloads = read_bytes(config.memory), {batch: plan_workload(config, batch) for batch in BATCHES}
    return [
        _row(config, workloads, method, precision, there) for precision in config.precision for method in config.method
    ]


def _row(config: PlanConfig, workloads: dict[int, Workload], method: str, precision: str, there: int) -> PlanRow:
    try:
        model, steps = _follow(workloads, method, precision)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise ValueError(
            f"The loss of {config.architecture or config.task} depends on values, so its memory cannot be planned "
            "without data; measure it: mona-peft benchmark."
        ) from error
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = sum(p.nbytes for p in trained)
    weights = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    saved = {key: _line([step.saved for step in both])[1] for key, both in steps.items()}
    peak = {key: _moments(*_align(*both)) for key, both in steps.items()}
    free = there - weights - STATES * gradients
    batch = {key: max(0, min((free - fixed) // each for fixed, each in moments)) for key, moments in peak.items()}
    return PlanRow(
        *(method, precision, sum(p.numel() for p in trained), weights, gradients, STATES * gradients),
        *(saved[False], saved[True], peak[False], peak[True], batch[False], batch[True]),
    )


def _follow(
    workloads: dict[int, Workload], method: str, precision: str
) -> tuple[nn.Module, dict[bool, list[StepBytes]]]:
    """The model, and its steps with every batch, without and with gradient checkpointing."""
    with plan_subject(workloads, method, precision) as subject:
        steps = {again: [subject.follow(batch, again) for batch in BATCHES] for again in (False, True)}
    return subject.model, steps


def _line(values: list[int]) -> tuple[int, int]:
    """What does not grow with the batch, and what an image adds."""
    each = (values[1] - values[0]) // (BATCHES[1] - BATCHES[0])
    return values[0] - each * BATCHES[0], max(1, each)


def _align(small: StepBytes, large: StepBytes) -> tuple[list[int], list[int]]:
    """What both steps hold at the same moments.

    Operations come in the same order with both batches, but losses may go through images one by one: from one image
    before the steps part to one image after they meet again, the most is taken.
    """
    apart = len(large.history) - len(small.history)
    if not apart:
        return small.history, large.history
    image = max(1, abs(apart) // (BATCHES[1] - BATCHES[0]))  # operations
    parted = _shared(small.operations, large.operations)
    met = _shared(small.operations[parted:][::-1], large.operations[parted:][::-1])
    start, end = max(0, parted - image), max(0, met - image - 1)
    first, second = (
        [*h[:start], max(h[start : len(h) - end]), *h[len(h) - end :]] for h in (small.history, large.history)
    )
    return first, second


def _shared(some: list[str], others: list[str]) -> int:
    """How many of the first are the same."""
    return next(place for place, (a, b) in enumerate(zip([*some, ""], [*others, ""], strict=False)) if a != b)


def _moments(small: list[int], large: list[int]) -> list[tuple[int, int]]:
    """The moments that may be a step's peak, by what is held then: whatever the batch, and an image.

    Small batches have their peak where the gradients are, large ones where the activations are.
    """
    best: dict[int, int] = {}
    for fixed, each in {_line([*both]) for both in zip(small, large, strict=True)}:
        best[each] = max(fixed, best.get(each, fixed))
    moments: list[tuple[int, int]] = []
    for each, fixed in sorted(best.items(), reverse=True):
        if not moments or fixed > moments[-1][0]:  # more than all that grow faster
            moments.append((fixed, each))
    return moments


class PlanSubject:
    """A model with its method, of which steps can be followed.

    Args:
        model (`nn.Module`): In training mode.
        workloads (`dict[int, Workload]`): By batch; give loss and batches.
        precision (`str`): See `PlanRow`.
        fake (`FakeTensorMode`): That of the model's weights.
    """

    def __init__(self, model: nn.Module, workloads: dict[int, Workload], precision: str, fake: FakeTensorMode) -> None:
        self.model, self.workloads, self.precision, self.fake = model, workloads, precision, fake

    def follow(self, batch: int, checkpointed: bool) -> StepBytes:
        """Follow a step of so many images."""
        workload = self.workloads[batch]
        backbone = workload.backbone(self.model)
        if checkpointed:
            backbone.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
        else:
            backbone.gradient_checkpointing_disable()
        tensors = self._tensors(workload.batch)

        def loss() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "autocast"):
                return self._loss(workload, tensors)

        with assumed():
            return follow_step(self.model, loss)

    def _loss(self, workload: Workload, batch: Batch) -> Tensor:
        if "targets" not in batch and not isinstance(workload, MetaClassification):
            # The architecture's own: the task looks for images without labels first, which fake tensors do not tell.
            return self.model(pixel_values=batch["pixel_values"], labels=batch["labels"]).loss
        return workload.loss(self.model, batch)

    def _tensors(self, batch: Batch) -> Batch:
        """Without values, but for boxes, labels and sizes of objects."""
        if "targets" not in batch:
            return tree_map_only(Tensor, self._tensor, batch)
        targets = [{k: self._tensor(v) if k == "masks" else v for k, v in one.items()} for one in batch["targets"]]
        return {**batch, "pixel_values": self._tensor(batch["pixel_values"]), "targets": targets}

    def _tensor(self, tensor: Tensor) -> Tensor:
        lowered = self.precision == "bfloat16" and tensor.is_floating_point()
        with self.fake:
            return torch.empty_like(tensor, dtype=torch.bfloat16 if lowered else None, device="cpu")


class MetaClassification(Workload):
    """Classification of images that have no values.

    Args:
        config (`CostsConfig`): Model and sizes.
    """

    def __init__(self, config: CostsConfig) -> None:
        with torch.device("meta"):
            self.base = build_model(model_config(config.model, config.image_size))
            images = torch.empty(config.batch_size, 3, config.image_size, config.image_size)
            self.batch = {"pixel_values": images, "labels": torch.arange(config.batch_size) % LABELS}
        self.test_batch = self.batch

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross entropy in float32."""
        logits = model(pixel_values=batch["pixel_values"]).logits
        return nn.functional.cross_entropy(logits.float(), batch["labels"])

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits `(B, classes)`."""
        return model(pixel_values=batch["pixel_values"]).logits

    def backbone(self, model: nn.Module) -> PreTrainedModel:
        """The classifier, head and all."""
        return next(module for module in model.modules() if isinstance(module, PreTrainedModel))


def plan_workload(config: PlanConfig, batch: int) -> Workload:
    """The model without any method, and a batch of so many images."""
    costs = CostsConfig(
        task=config.task,
        model=config.model,
        architecture=config.architecture,
        architecture_options=config.architecture_options,
        image_size=config.image_size,
        batch_size=batch,
    )
    if not costs.dense:
        return MetaClassification(costs)
    workload = build_workload(costs)
    if "targets" in workload.batch:
        pairs = zip(workload.batch["targets"], workload.batch["sizes"], strict=True)
        workload.batch["targets"] = [assume_objects(target, size, config.objects) for target, size in pairs]
    return workload


@contextmanager
def plan_subject(workloads: dict[int, Workload], method: str, precision: str) -> Iterator[PlanSubject]:
    """A method's model to follow.

    Args:
        workloads (`dict[int, Workload]`): By batch; the model of the first is copied.
        method (`str`): Its name.
        precision (`str`): See `PlanRow`.
    """
    first = workloads[BATCHES[0]]
    model = copy.deepcopy(first.base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of adapters on the meta device, which is what is wanted here
        model = model.to("meta")
        model = model.to(torch.bfloat16) if precision == "bfloat16" else model
        model = apply_method(model, method, task_head(model)).train()
        first.finish(model, gradient_checkpointing=False)
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        with fake:
            model = model.to_empty(device="cpu")
        yield PlanSubject(model, workloads, precision, fake)
