"""The graph of a classifier: pixels, and if asked for the adapter's tensors, to logits, with a dynamic batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from mona_peft.finetuning.validation import first_line

PIXELS, LOGITS = "pixel_values", "logits"


@dataclass(frozen=True)
class Graph:
    """A traced model.

    Args:
        program (`ExportedProgram`): With the pixels, and the adapter's tensors where those are inputs.
        inputs (`list[str]`): Names of the inputs.
    """

    program: ExportedProgram
    inputs: list[str]


class Traceable(nn.Module):
    """A classifier as a function of tensors.

    Args:
        model (`nn.Module`): In evaluation mode.
        replaced (`list[str]`): Names of the tensors of the model that come as inputs.
    """

    def __init__(self, model: nn.Module, replaced: list[str]) -> None:
        super().__init__()
        self.model = model
        self.replaced = replaced

    def forward(self, pixel_values: Tensor, *tensors: Tensor) -> Tensor:
        """Logits `(B, classes)`."""
        return logits_of(self.model, dict(zip(self.replaced, tensors, strict=True)), pixel_values)


def logits_of(model: nn.Module, tensors: Mapping[str, Tensor], pixel_values: Tensor) -> Tensor:
    """Logits of a classifier with some of its tensors replaced; models of timm give them as they are."""
    # By place: models of other libraries have another name for the pixels.
    arguments = (pixel_values,)
    output = torch.func.functional_call(model, dict(tensors), arguments) if tensors else model(*arguments)
    return output if isinstance(output, Tensor) else output.logits


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


def trace(model: nn.Module, pixels: Tensor, replaced: Mapping[str, str]) -> Graph:
    """Trace a classifier with a dynamic batch.

    Args:
        model (`nn.Module`): In evaluation mode.
        pixels (`Tensor`): `(B, 3, H, W)`; two images or more, as a size of one would be taken for a constant.
        replaced (`Mapping[str, str]`): The model's names of tensors that come as inputs, by the inputs' names.

    Raises:
        ValueError: If the model cannot be traced with a dynamic batch.
    """
    state = model.state_dict()
    arguments = (pixels, *(state[name].clone() for name in replaced.values()))
    shapes: dict[str, Any] = {PIXELS: {0: Dim.DYNAMIC}}
    if replaced:
        shapes["tensors"] = tuple({} for _ in replaced)
    traceable = Traceable(model, list(replaced.values())).eval()
    try:
        with torch.no_grad():
            program = torch.export.export(traceable, arguments, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # whatever the model's code does with sizes
        bare = model.get_base_model() if isinstance(model, PeftModel) else model
        raise ValueError(
            f"{type(bare).__name__} cannot be exported with a dynamic batch: {first_line(error)}"
        ) from error
    return Graph(program, [PIXELS, *replaced])
