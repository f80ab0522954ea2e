"""The graph of a model: pictures, and if asked for the adapter's tensors, to what its kind gives."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from unittest import mock

import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from transformers.utils.generic import torch_int

from mona_peft.finetuning.repository import bare_model
from mona_peft.finetuning.validation import first_line

from .frames import LEAST, Frame
from .kinds import Outputs


@dataclass(frozen=True)
class Graph:
    """A traced model.

    Args:
        program (`ExportedProgram`): With the pictures, and the adapter's tensors where those are inputs.
        inputs (`list[str]`): Names of the inputs.
        outputs (`list[str]`): Names of the outputs.
    """

    program: ExportedProgram
    inputs: list[str]
    outputs: list[str]


class Traceable(nn.Module):
    """A model as a function of tensors.

    Args:
        outputs (`Outputs`): The model.
        names (`list[str]`): Names of its inputs.
        replaced (`list[str]`): Names of the tensors of the model that come as further inputs.
    """

    def __init__(self, outputs: Outputs, names: list[str], replaced: list[str]) -> None:
        super().__init__()
        self.outputs = outputs
        self.names = names
        self.replaced = replaced

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """What the model gives, of its inputs and the replaced tensors in turn."""
        inputs = dict(zip(self.names, tensors, strict=False))
        return self.outputs.with_tensors(dict(zip(self.replaced, tensors[len(inputs) :], strict=True)), inputs)


def adapter_tensors(model: nn.Module) -> dict[str, str]:
    """The model's own names of an adapter's tensors, by the names that they have in its file.

    Raises:
        ValueError: If the model has no adapter.
    """
    if not isinstance(model, PeftModel):
        raise ValueError("adapter_inputs needs a model with an adapter; this one has none.")
    own = {id(tensor): name for name, tensor in model.state_dict(keep_vars=True).items()}
    with torch.no_grad():
        state = get_peft_model_state_dict(model, model.state_dict(keep_vars=True), save_embedding_layers=False)
    return {name: own[id(tensor)] for name, tensor in state.items() if tensor.is_floating_point()}


def trace(outputs: Outputs, inputs: Mapping[str, Tensor], frame: Frame, replaced: Mapping[str, str]) -> Graph:
    """Trace a model with a dynamic batch and, if the frame says so, dynamic height and width.

    Args:
        outputs (`Outputs`): The model.
        inputs (`Mapping[str, Tensor]`): Pictures `(B, 3, H, W)`, and their mask `(B, H, W)` where there is one; two
            pictures or more, as a size of one would be taken for a constant.
        frame (`Frame`): Which heights and widths the graph takes.
        replaced (`Mapping[str, str]`): The model's names of tensors that come as inputs, by the inputs' names.

    Raises:
        ValueError: If the model cannot be traced with those dimensions.
    """
    state = outputs.model.state_dict()
    arguments = (*inputs.values(), *(state[name].clone() for name in replaced.values()))
    # Height and width come last, of the pixels and of their mask.
    shapes: list[dict[int, object]] = [{0: Dim.DYNAMIC, **_sides(x, frame)} for x in inputs.values()]
    shapes += [{} for _ in replaced]
    if frame.multiple:
        # Swin keeps sizes that it was called with, which would be symbols here.
        outputs = copy.deepcopy(outputs)
        _leave_out_padding(outputs)
    traceable = Traceable(outputs, list(inputs), list(replaced.values())).eval()
    try:
        with torch.no_grad():
            _run_once(outputs, inputs, frame)
            with _positions_interpolated(outputs, frame):
                program = torch.export.export(
                    traceable, arguments, dynamic_shapes={"tensors": tuple(shapes)}, strict=False
                )
    except Exception as error:  # whatever the model's code does with sizes
        dynamic = "dynamic height and width" if frame.multiple else "a dynamic batch"
        reason = re.sub(r"\bs\d+\b", "?", first_line(error))  # torch names unknown sizes like s43
        name = type(bare_model(outputs.model)).__name__
        raise ValueError(f"{name} cannot be exported with {dynamic}: {reason}") from error
    return Graph(program, [*inputs, *replaced], list(outputs.kind.outputs))


def _run_once(outputs: Outputs, inputs: Mapping[str, Tensor], frame: Frame) -> None:
    """Run a model before it is traced, as its own errors tell more than those of tracing."""
    try:
        outputs(inputs)
    except Exception as error:
        height, width = frame.traced
        raise ValueError(f"it does not take pictures of {height} x {width} pixels ({first_line(error)})") from error


def _leave_out_padding(model: nn.Module) -> None:
    """Let layers of Swin's kind in transformers take their maps as they are, which they would pad to whole windows.

    The sizes of a frame have whole windows at every stage. The padding, of no rows then, would make each size a
    formula of remainders that torch cannot tell to be the size itself.
    """
    for module in model.modules():
        if hasattr(module, "window_size") and hasattr(module, "maybe_pad"):
            module.maybe_pad = _as_it_is  # type: ignore[assignment]


def _as_it_is(hidden_states: Tensor, height: int, width: int) -> tuple[Tensor, tuple[int, ...]]:
    return hidden_states, (0,) * 6


@contextmanager
def _positions_interpolated(model: nn.Module, frame: Frame) -> Iterator[None]:
    """Make ViTs of transformers interpolate their positions at every size, as they do while `torch.jit` traces.

    Otherwise they take the table as it is at its own size, and a graph that was traced at another refuses that one. To
    the size they interpolate to they give `torch_int`, which knows no sizes of `torch.export` and makes them numbers.
    """
    with ExitStack() as patches:
        if frame.multiple:
            patches.enter_context(mock.patch.object(torch.jit, "is_tracing", lambda: True))
            for name in sorted({type(module).__module__ for module in model.modules()}):
                if torch_int is getattr(sys.modules.get(name), "torch_int", None):
                    patches.enter_context(mock.patch.object(sys.modules[name], "torch_int", _traced_int))
        yield


def _traced_int(number: object) -> object:
    return number if isinstance(number, torch.SymInt) else torch_int(number)


def _sides(x: Tensor, frame: Frame) -> dict[int, object]:
    """Height and width as dimensions, where they are dynamic."""
    if not frame.multiple:
        return {}
    rows, columns = (frame.multiple * Dim(name, min=LEAST) for name in ("rows", "columns"))
    return {x.ndim - 2: rows, x.ndim - 1: columns}
