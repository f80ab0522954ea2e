"""The proof of a row for a block, in float64 on random weights.

What has to hold is that the block computes `x1 + MLP(entry(x1))`, and nothing else of it depends on x1. It is put to
the test without knowing what the block is made of: give the block another input. Its stream after attention is then
x1 + d for some d, which the input of `entry` shows. The adapted block on the first input, with that d added by an
adapter, must give the same. A block whose branches run side by side, or whose result is changed afterwards, does not.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .layout import TokenLayout
from .modules import stream_width
from .spec import BlockSpec
from .tap import check_tappable, tap
from .trial import CallRecord, call, first_tensor, hooked, random_copy

#: Relative error up to which two results in float64 are the same.
TOLERANCE = 1e-9
CHILD = "probe"
OWN_INPUT = "it reads the block's own input, so there is no stream between the branches"


class Probe(nn.Module):
    """A `ResidualAdapter` that adds what it is told, or a share of what it reads.

    Args:
        branches (`bool`): Whether it adds to the stream after attention; if not, to the block's result.
    """

    reads_norms = False

    def __init__(self, branches: bool) -> None:
        super().__init__()
        self.branches = branches
        self.share = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.delta: Tensor | None = None

    def is_idle(self) -> bool:
        """Never."""
        return False

    def _added(self, hidden_states: Tensor) -> Tensor:
        return self.share * hidden_states if self.delta is None else self.delta.reshape(hidden_states.shape)

    def after_attention(self, hidden_states: Tensor, layout: TokenLayout) -> Tensor | None:
        """What it was told to add, or its share."""
        return self._added(hidden_states) if self.branches else None

    def after_mlp(self, hidden_states: Tensor, layout: TokenLayout) -> Tensor | None:
        """Its share of a convolutional block's result."""
        return None if self.branches else self._added(hidden_states)

    def _nothing(self, *args: object) -> None:
        return None

    check_groups = _nothing
    beside_mlp = beside_attention = beside_mlp_normed = stream_after_attention = stream_after_mlp = _nothing


def find_flaw(
    model: nn.Module, names: Sequence[str], spec: BlockSpec, inputs: Mapping[str, Tensor], seed: int = 0
) -> str | None:
    """Why a row does not hold for some blocks of a model; `None` if it is proved for all of them.

    Args:
        model (`nn.Module`): Stays as it is.
        names (`Sequence[str]`): The blocks.
        spec (`BlockSpec`): Their row.
        inputs (`Mapping[str, Tensor]`): Images in float64, as keyword arguments of the model.
        seed (`int`): Of the weights.
    """
    base = random_copy(model, seed)
    adapted = copy.deepcopy(base)
    try:
        for name in names:
            block = adapted.get_submodule(name)
            stream_width(block, spec)
            check_tappable(adapted, name, spec)
            block.add_module(CHILD, Probe(bool(spec.entry)))
            tap(adapted, name, spec, CHILD)
        return (
            _starts_otherwise(base, adapted, inputs)
            or _differs_from_parts(base, adapted, names, spec, inputs)
            or _misses_gradients(adapted, names, inputs)
        )
    except (ValueError, RuntimeError, TypeError, IndexError, AttributeError) as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _starts_otherwise(base: nn.Module, adapted: nn.Module, inputs: Mapping[str, Tensor]) -> str | None:
    with torch.no_grad():
        one, other = first_tensor(_values(call(base, inputs))), first_tensor(_values(call(adapted, inputs)))
    if one is None or other is None:
        return "the model gives no tensor to compare"
    return None if torch.equal(one, other) else "with an adapter that adds nothing, the model gives something else"


@dataclass(frozen=True)
class Move:
    """What another input does to a block.

    Args:
        delta (`Tensor`): How it moves the stream after attention.
        expected (`Tensor`): What the block gives then.
        output (`object`): What it gives on its own input.
    """

    delta: Tensor
    expected: Tensor
    output: object


def _differs_from_parts(
    base: nn.Module, adapted: nn.Module, names: Sequence[str], spec: BlockSpec, inputs: Mapping[str, Tensor]
) -> str | None:
    """Compare each block on another input with the adapted block on the first one; see the head of this file."""
    if not spec.entry:
        return None
    moves = _move_blocks(base, names, spec, inputs)
    missing = next((name for name in names if name not in moves), None)
    if missing is not None:
        return f"block '{missing}' is not called"
    found: dict[str, Tensor | None] = {}
    blocks = {adapted.get_submodule(name): name for name in names}

    def keep(block: nn.Module, args: tuple, kwargs: dict[str, object], output: object) -> object:
        name = blocks[block]
        found[name] = first_tensor(output)
        return moves[name].output  # later blocks get what they get in the base model

    probes = _probes(adapted, names)
    for name, probe in probes.items():
        probe.delta = moves[name].delta
    with hooked(blocks, end=keep), torch.no_grad():
        call(adapted, inputs)
    for probe in probes.values():
        probe.delta = None
    return next(filter(None, (_compare(name, found.get(name), moves[name]) for name in names)), None)


def _move_blocks(
    base: nn.Module, names: Sequence[str], spec: BlockSpec, inputs: Mapping[str, Tensor]
) -> dict[str, Move]:
    """Run each block on its own input and on another one."""
    blocks = {base.get_submodule(name): name for name in names}
    moves: dict[str, Move] = {}

    def move(block: nn.Module, args: tuple, kwargs: dict[str, object], output: object) -> None:
        given = CallRecord(args, kwargs, None).input
        assert given is not None
        entry = block.get_submodule(spec.entry)
        stream, _ = _run(block, entry, args, kwargs)
        moved, expected = _run(block, entry, *_moved(args, kwargs, given))
        moves[blocks[block]] = Move(moved - stream, expected, output)

    with hooked(blocks, end=move), torch.no_grad():
        call(base, inputs)
    return moves


def entry_flaw(block: nn.Module, entry: str, record: CallRecord) -> str | None:
    """Why a module of a block is not where its MLP branch starts; `None` if it may be, on a block alone, quickly.

    Args:
        block (`nn.Module`): In float64, not adapted.
        entry (`str`): Path of the module in it.
        record (`CallRecord`): A call of the block.
    """
    given = record.input
    assert given is not None
    module = block.get_submodule(entry)
    try:
        with torch.no_grad():
            stream, _ = _run(block, module, record.args, record.kwargs)
            if stream.numel() == given.numel() and torch.equal(stream.reshape(given.shape), given):
                return OWN_INPUT
            moved, expected = _run(block, module, *_moved(record.args, record.kwargs, given))
            delta = moved - stream
            with hooked([module], begin=lambda _, args, kwargs: ((args[0] + delta, *args[1:]), kwargs)):
                result = first_tensor(block.forward(*record.args, **record.kwargs))
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        return " ".join(str(error).split())[:200]
    assert result is not None
    shapes = [delta.reshape(result.shape)] if delta.numel() == result.numel() else []
    if delta.dim() == result.dim() == 4 and delta.permute(0, 3, 1, 2).shape == result.shape:
        shapes.append(delta.permute(0, 3, 1, 2))
    errors = [((result + one - expected).abs().max() / expected.abs().max()).item() for one in shapes]
    if not errors:
        return "it reads another shape than the block gives"
    return None if min(errors) <= TOLERANCE else f"the block is not its parts: off by {min(errors):.1e} of its result"


def _moved(args: tuple, kwargs: dict[str, object], given: Tensor, seed: int = 2) -> tuple[tuple, dict[str, object]]:
    """The same arguments with another tensor in place of `given`."""
    generator = torch.Generator().manual_seed(seed)
    other = given + torch.randn(given.shape, generator=generator, dtype=given.dtype)
    swapped = {name: other if value is given else value for name, value in kwargs.items()}
    return tuple(other if value is given else value for value in args), swapped


def _run(block: nn.Module, entry: nn.Module, args: tuple, kwargs: dict[str, object]) -> tuple[Tensor, Tensor]:
    """What a block's entry is given in a forward of its own, and what the block gives."""
    seen: list[Tensor] = []
    with hooked([entry], begin=lambda module, given, named: seen.append(given[0])):
        result = first_tensor(block.forward(*args, **kwargs))
    if len(seen) != 1 or result is None:
        raise ValueError(f"the entry is called {len(seen)} times in a forward")
    return seen[0], result


def _compare(name: str, result: Tensor | None, move: Move) -> str | None:
    """Why an adapted block is not its parts; nothing if it is."""
    if not move.delta.abs().max() > 0:
        return f"the input of block '{name}' does not reach its entry"
    if result is None or result.shape != move.expected.shape:
        return f"block '{name}' gives another shape"
    error = ((result - move.expected).abs().max() / move.expected.abs().max()).item()
    if not error <= TOLERANCE:
        return f"block '{name}' is not its parts: the adapted block is off by {error:.1e} of its result"
    return None


def _misses_gradients(adapted: nn.Module, names: Sequence[str], inputs: Mapping[str, Tensor]) -> str | None:
    probes = _probes(adapted, names)
    output = first_tensor(_values(call(adapted, inputs)))
    assert output is not None
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(3), dtype=output.dtype)
    (output * weights).sum().backward()
    for name, probe in probes.items():
        gradient = probe.share.grad
        if gradient is None or not torch.isfinite(gradient) or gradient == 0:
            return f"no gradient reaches an adapter of block '{name}'"
    return None


def _probes(adapted: nn.Module, names: Sequence[str]) -> dict[str, Probe]:
    """The probes in these blocks."""
    found: dict[str, Probe] = {}
    for name in names:
        probe = adapted.get_submodule(f"{name}.{CHILD}")
        assert isinstance(probe, Probe), f"{name} has a probe, or nothing would be proved of it"
        found[name] = probe
    return found


def _values(output: object) -> object:
    """An output as tensors in order: of transformers, without what is None."""
    return output.to_tuple() if hasattr(output, "to_tuple") else output
