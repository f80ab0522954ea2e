"""What of a model can be adapted, what cannot and why; for an unknown model, a row for its blocks that is proved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mona_peft.blocks.known import find_blocks
from mona_peft.blocks.proposing import Records, entries, is_convolutional, layouts
from mona_peft.blocks.proving import OWN_INPUT, entry_flaw, find_flaw
from mona_peft.blocks.spec import BlockSpec
from mona_peft.blocks.tap import check_tappable
from mona_peft.blocks.trial import random_copy, repeated_classes, run_trial, trial_images
from mona_peft.tuners.mona import MonaConfig


@dataclass(frozen=True)
class Blocks:
    """The repeated blocks of one class in a model.

    Args:
        cls (`str`): The class.
        names (`tuple[str, ...]`): The blocks, from the input to the output.
        spec (`BlockSpec`, *optional*): Their row: of the table, or proposed and proved; none if they are not adapted.
        known (`bool`): Whether the row is in the table.
        reason (`str`): Why they are not adapted; empty if they are.
    """

    cls: str
    names: tuple[str, ...]
    spec: BlockSpec | None = None
    known: bool = False
    reason: str = ""

    def __str__(self) -> str:
        where = self.names[0] if len(self.names) == 1 else f"{self.names[0]} to {self.names[-1]}"
        head = f"{len(self.names)} {self.cls} ({where})"
        if self.spec is None:
            return f"{head}: not adapted: {self.reason}"
        entry = f"MLP branch from '{self.spec.entry}'" if self.spec.entry else "convolutional, after each block"
        extra = "".join(
            f", {side} tokens {'+'.join(map(str, terms))}"
            for side, terms in (("prefix", self.spec.prefix_tokens), ("suffix", self.spec.suffix_tokens))
            if terms
        )
        state = "known" if self.known else "unknown; this row is proved"
        return f"{head}: {state}: {entry}, grid from {self.spec.grid}{extra}"


@dataclass
class Inspection:
    """The result of [`inspect_backbone`]; printing it gives a line for each class of blocks.

    Args:
        model (`str`): Class of the model.
        blocks (`list[Blocks]`): Its repeated blocks.
        notes (`list[str]`): What else there is to say.
    """

    model: str
    blocks: list[Blocks] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def proposals(self) -> list[BlockSpec]:
        """The rows that the table does not have: each is proved."""
        return [one.spec for one in self.blocks if one.spec is not None and not one.known]

    @property
    def can_be_adapted(self) -> bool:
        """Whether `get_peft_model` with [`Inspection.config`] adapts something."""
        return any(one.spec is not None for one in self.blocks)

    def config(self, **settings: Any) -> MonaConfig:
        """A configuration with the proposed rows, to adapt the model with and to save.

        Args:
            **settings: Further fields of `MonaConfig`.

        Raises:
            ValueError: If nothing of the model can be adapted.
        """
        if not self.can_be_adapted:
            raise ValueError(f"{self.model} has no block that can be adapted exactly:\n{self}")
        return MonaConfig(block_specs=self.proposals or None, **settings)

    def __str__(self) -> str:
        return "\n".join([self.model, *(f"  {one}" for one in self.blocks), *(f"  {note}" for note in self.notes)])


def inspect_backbone(model: nn.Module, inputs: Tensor | Mapping[str, Tensor] | None = None) -> Inspection:
    """Say what of a model is adapted, what is not and why; propose rows for blocks that are not known.

    A row is proposed only if it is proved in float64 on random weights: adapted with nothing the model gives exactly
    what it gave, every block is the sum of its parts, and gradients reach an adapter in every block. The model stays
    as it is; copies of it are run.

    Args:
        model (`nn.Module`): Any model, with any weights, not adapted.
        inputs (`Tensor` or `Mapping`, *optional*): What the model takes: images `(B, C, H, W)`, or its keyword
            arguments. Random images of the size that the model tells, or a usual one, if left out.

    Returns:
        `Inspection`: Print it; `config()` makes a configuration of it.
    """
    report = Inspection(type(model).__name__)
    known = find_blocks(model)
    by_class: dict[str, list[str]] = {}
    for name in known:
        by_class.setdefault(type(model.get_submodule(name)).__name__, []).append(name)
    report.blocks = [_known_blocks(model, cls, names, known[names[0]]) for cls, names in by_class.items()]
    if known:
        report.notes += _left_out(model, known)
        return report
    twin = random_copy(model)
    tried = _first_that_runs(twin, inputs)
    if isinstance(tried, str):
        report.notes.append(f"Its blocks are not known, and it cannot be tried: {tried}")
        return report
    taken, records = tried
    candidates = repeated_classes(twin, list(records))
    for cls, names in candidates.items():
        proposed = [outer for one in report.blocks if one.spec for outer in one.names]
        if not _some_inside(names, proposed):
            inner = [name for others in candidates.values() for name in others if _some_inside([name], names)]
            report.blocks.append(_propose(twin, cls, names, records, taken, inner))
    if not report.blocks:
        report.notes.append("It has no repeated blocks in lists: nothing to adapt.")
    return report


def _some_inside(names: Sequence[str], outer: Sequence[str]) -> bool:
    """Whether some modules are inside some others, by their names."""
    return any(name.startswith(f"{one}.") for one in outer for name in names)


def _known_blocks(model: nn.Module, cls: str, names: list[str], spec: BlockSpec) -> Blocks:
    try:
        for name in names:
            check_tappable(model, name, spec)
    except ValueError as error:
        return Blocks(cls, tuple(names), reason=" ".join(str(error).split()))
    return Blocks(cls, tuple(names), spec, known=True)


def _left_out(model: nn.Module, known: Mapping[str, BlockSpec]) -> list[str]:
    """Repeated modules outside the known blocks, which no adapter reaches."""
    found: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        parent = model.get_submodule(name.rpartition(".")[0]) if name else None
        outside = not any(f"{name}.".startswith(f"{block}.") or f"{block}.".startswith(f"{name}.") for block in known)
        if isinstance(parent, nn.ModuleList) and outside and next(module.children(), None) is not None:
            found.setdefault(type(module).__name__, []).append(name)
    return [
        f"{len(names)} {cls} ({names[0]}, ...): not adapted: outside the image encoder, or of an unknown class"
        for cls, names in found.items()
        if len(names) > 1
    ]


def _first_that_runs(
    model: nn.Module, inputs: Tensor | Mapping[str, Tensor] | None
) -> tuple[dict[str, Tensor], Records] | str:
    """The first inputs that the model takes and the records of its modules; the last error, if it takes none."""
    candidates = trial_images(model)
    if inputs is not None:
        given = {next(iter(candidates[0])): inputs} if isinstance(inputs, Tensor) else dict(inputs)
        candidates = [{name: _as_float64(value) for name, value in given.items()}]
    problem = ""
    for candidate in candidates:
        try:
            return candidate, run_trial(model, candidate)
        except Exception as error:  # a model may raise anything on images it was not made for
            problem = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return f"{problem}. Give it what it takes: inspect_backbone(model, inputs)."


def _as_float64(value: Tensor) -> Tensor:
    return value.double() if isinstance(value, Tensor) and torch.is_floating_point(value) else value


def _propose(
    model: nn.Module, cls: type, names: list[str], records: Records, inputs: Mapping[str, Tensor], inner: Sequence[str]
) -> Blocks:
    """The first row that is proved for some blocks; if there is none, why the likeliest is not.

    What is inside other repeated modules, `inner`, belongs to those: a stage is not the last of its blocks.
    """
    block = model.get_submodule(names[0])
    tried = [one for one in entries(names[0], block, records) if not _some_inside([f"{names[0]}.{one}."], inner)]
    flaws = {entry: entry_flaw(block, entry, records[names[0]][0]) for entry in tried}
    found = [entry for entry, flaw in flaws.items() if flaw is None]
    if not found and not inner and is_convolutional(model, names, records):
        found = [""]
    reasons = [f"its '{entry}' is not where a branch starts: {flaw}" for entry, flaw in flaws.items() if flaw]
    reasons.sort(key=lambda reason: OWN_INPUT not in reason)
    for entry in found:
        reasons = [] if reasons and entry == found[0] else reasons
        for spec in layouts(model, names, entry, records, inputs):
            flaw = find_flaw(model, names, spec, inputs)
            if flaw is None:
                return Blocks(cls.__name__, tuple(names), spec)
            reasons.append(flaw)
    if found and not reasons:
        reasons.append("where the height and width of its tokens come from was not found")
    return Blocks(
        cls.__name__, tuple(names), reason=(reasons or ["nothing inside is called with all of its stream"])[0]
    )
