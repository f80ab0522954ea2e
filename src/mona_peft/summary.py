"""What of a model trains: adapters, head and base apart, block by block."""

from __future__ import annotations

from dataclasses import dataclass, field

from peft import PeftMixedModel, PeftModel
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn

from mona_peft.blocks.head import find_head, is_head
from mona_peft.blocks.known import find_blocks

from .compat import AuxiliaryTrainingWrapper

#: PEFT keeps what it trains a copy of under this name.
ORIGINAL_MODULE = "original_module"


@dataclass
class Count:
    """Parameters of one part of a model.

    Args:
        trainable (`int`): Those that get gradients.
        total (`int`): All of them.
    """

    trainable: int = 0
    total: int = 0

    def add(self, parameter: nn.Parameter) -> None:
        self.total += parameter.numel()
        self.trainable += parameter.numel() if parameter.requires_grad else 0


@dataclass
class Summary:
    """The result of [`summary`]; printing it gives a table.

    Args:
        adapters (`Count`): Parameters inside tuner layers.
        head (`Count`): Parameters outside the backbone; where PEFT trains a copy (`modules_to_save`), the copy's.
        base (`Count`): Parameters of the backbone without the adapters.
        idle (`Count`): The originals of what PEFT trains copies of, which run only when the adapters are disabled.
        blocks (`dict[str, Count]`): The adapters' parameters by the block they belong to.
    """

    adapters: Count = field(default_factory=Count)
    head: Count = field(default_factory=Count)
    base: Count = field(default_factory=Count)
    idle: Count = field(default_factory=Count)
    blocks: dict[str, Count] = field(default_factory=dict)

    @property
    def backbone(self) -> Count:
        """Parameters of the backbone and of the adapters in it."""
        return Count(self.adapters.trainable + self.base.trainable, self.adapters.total + self.base.total)

    @property
    def trainable(self) -> int:
        """All parameters that get gradients."""
        return self.adapters.trainable + self.head.trainable + self.base.trainable + self.idle.trainable

    @property
    def total(self) -> int:
        """All parameters."""
        return self.adapters.total + self.head.total + self.base.total + self.idle.total

    def __str__(self) -> str:
        rows = [("adapters", self.adapters), *((f"  {name}", count) for name, count in self.blocks.items())]
        rows += [("head", self.head), ("base", self.base)]
        rows += [("idle copies", self.idle)] if self.idle.total else []
        rows += [("all", Count(self.trainable, self.total))]
        width = max(len(name) for name, _ in rows)
        lines = [f"{'':{width}}  {'trainable':>13}  {'parameters':>13}"]
        lines += [f"{name:{width}}  {count.trainable:13,}  {count.total:13,}" for name, count in rows]
        return "\n".join(lines)


def summary(model: nn.Module) -> Summary:
    """Count what trains in `model`: adapters, head and base apart, the adapters by block.

    Parameters shared between modules count once.

    Args:
        model (`nn.Module`): Any model, adapted or not, wrapped by PEFT or not.

    Returns:
        `Summary`: Counts of trainable and of all parameters.
    """
    result = Summary()
    blocks = list(find_blocks(model))
    tuner_layers = [name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    prefix, task_model = _task_model(model)
    head = find_head(task_model)
    if head is None:  # what trains besides the adapters is then taken for the head
        saved = [name for name, module in model.named_modules() if isinstance(module, AuxiliaryTrainingWrapper)]
        head = tuple(name.removeprefix(prefix) for name in saved)
    for name, parameter in model.named_parameters():
        if any(name.startswith(f"{n}.") and not name.startswith(f"{n}.base_layer.") for n in tuner_layers):
            result.adapters.add(parameter)
            block = next((b for b in blocks if name.startswith(f"{b}.")), "elsewhere")
            result.blocks.setdefault(block, Count()).add(parameter)
        elif ORIGINAL_MODULE in name.split("."):
            result.idle.add(parameter)
        elif is_head(name.removeprefix(prefix), head):
            result.head.add(parameter)
        else:
            result.base.add(parameter)
    return result


def _task_model(model: nn.Module) -> tuple[str, nn.Module]:
    """The model inside PEFT's wrappers, and the prefix of its parameters' names."""
    if isinstance(model, (PeftModel, PeftMixedModel)):
        inner = model.base_model.model
        assert isinstance(inner, nn.Module)
        return "base_model.model.", inner
    inner = model.model if isinstance(model, BaseTuner) else model
    return ("" if inner is model else "model."), inner
