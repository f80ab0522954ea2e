"""The graph of a model: pictures, and if asked for the adapter's tensors, to what its kind gives."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

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
    shapes: list[Any] = [{0: Dim.DYNAMIC, **_sides(x, frame)} for x in inputs.values()] + [{} for _ in replaced]
    if frame.multiple:
        # Swin keeps sizes that it was called with, which would be symbols here.
        outputs = copy.deepcopy(outputs)
    traceable = Traceable(outputs, list(inputs), list(replaced.values())).eval()
    try:
        with torch.no_grad(), _positions_interpolated(frame):
            program = torch.export.export(
                traceable, arguments, dynamic_shapes={"tensors": tuple(shapes)}, strict=False
            )
    except Exception as error:  # whatever the model's code does with sizes
        model = outputs.model.get_base_model() if isinstance(outputs.model, PeftModel) else outputs.model
        dynamic = "dynamic height and width" if frame.multiple else "a dynamic batch"
        raise ValueError(f"{type(model).__name__} cannot be exported with {dynamic}: {first_line(error)}") from error
    return Graph(program, [*inputs, *replaced], list(outputs.kind.outputs))


@contextmanager
def _positions_interpolated(frame: Frame) -> Iterator[None]:
    """Make ViTs interpolate their positions at every size, as they do while `torch.jit` traces.

    Otherwise they take the table as it is at its own size, and a graph that was traced at another refuses that one.
    """
    if not frame.multiple:
        yield
        return
    with mock.patch.object(torch.jit, "is_tracing", lambda: True):
        yield


def _sides(x: Tensor, frame: Frame) -> dict[int, Any]:
    """Height and width as dimensions, where they are dynamic."""
    if not frame.multiple:
        return {}
    rows, columns = (frame.multiple * Dim(name, min=LEAST) for name in ("rows", "columns"))
    return {x.ndim - 2: rows, x.ndim - 1: columns}
