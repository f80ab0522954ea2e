"""What the graph of a model takes and gives, one row for each kind of model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mona_peft.finetuning.inference.classification import LoadedClassifier
from mona_peft.finetuning.inference.dense import LoadedDense
from mona_peft.finetuning.inference.predictor import Loaded
from mona_peft.finetuning.models.architectures import ARCHITECTURES, architecture_of
from mona_peft.finetuning.repository import bare_model

PIXELS, MASK, LOGITS, BOXES = "pixel_values", "pixel_mask", "logits", "boxes"

#: Tensors that a model gives, in the order of its kind's outputs, of its inputs and the options of its call.
Call = Callable[[nn.Module, Mapping[str, Tensor], Mapping[str, bool]], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Kind:
    """One row of the table.

    Args:
        outputs (`dict[str, str]`): Outputs of the graph, each with its meaning.
        call (`Callable`): Runs a model and picks them.
        class_axis (`int`): Axis of the first output that the classes are along.
        masked (`bool`): Whether the graph also takes a mask of the pixels that are no padding.
    """

    outputs: dict[str, str]
    call: Call
    class_axis: int = -1
    masked: bool = False


def _fields(*names: str) -> Call:
    """The fields of these names in the output of a model of transformers."""

    def call(model: nn.Module, inputs: Mapping[str, Tensor], options: Mapping[str, bool]) -> tuple[Tensor, ...]:
        output = model(**inputs, **options)
        return tuple(getattr(output, name) for name in names)

    return call


def _classify(model: nn.Module, inputs: Mapping[str, Tensor], options: Mapping[str, bool]) -> tuple[Tensor, ...]:
    # By place: models of other libraries have another name for the pixels, and give logits as they are.
    output = model(inputs[PIXELS], **options)
    return (output if isinstance(output, Tensor) else output.logits,)


def _candidates(model: nn.Module, inputs: Mapping[str, Tensor], options: Mapping[str, bool]) -> tuple[Tensor, ...]:
    return bare_model(model).candidates(inputs[PIXELS])


CLASSIFIER = Kind({LOGITS: "(batch, classes)"}, _classify)
_SEGMENTER = Kind(
    {LOGITS: "(batch, classes, height, width) of the prepared picture, its padding included"}, _fields("logits"), 1
)
_QUERIES = "(batch, queries, 4): centre x, centre y, width and height as shares of the picture without its padding"
#: By the name of the architecture.
KINDS = {
    "upernet": _SEGMENTER,
    "segformer": _SEGMENTER,
    "retinanet": Kind(
        {
            LOGITS: "(batch, candidates, classes): sigmoid gives scores, no class stands for the background",
            BOXES: "(batch, candidates, 4): left, top, right and bottom in pixels of the prepared picture, as they "
            "are before non-maximum suppression",
        },
        _candidates,
    ),
    "detr": Kind(
        {
            LOGITS: "(batch, queries, classes + 1): softmax gives scores, the last class is that of no object",
            BOXES: _QUERIES,
        },
        _fields("logits", "pred_boxes"),
        masked=True,
    ),
    "conditional_detr": Kind(
        {
            LOGITS: "(batch, queries, classes): sigmoid gives scores",
            BOXES: _QUERIES,
        },
        _fields("logits", "pred_boxes"),
        masked=True,
    ),
    "mask2former": Kind(
        {
            LOGITS: "(batch, queries, classes + 1): softmax gives scores, the last class is that of no object",
            "masks": "(batch, queries, rows, columns) of the prepared picture, its padding included, as large as the "
            "maps of the backbone's first stage: above 0 is the object",
        },
        _fields("class_queries_logits", "masks_queries_logits"),
    ),
}


def kind_of(loaded: Loaded) -> Kind:
    """The row of a loaded model.

    Raises:
        ValueError: If it has none.
    """
    bare = loaded.bare_model()
    if isinstance(loaded, LoadedClassifier):
        return CLASSIFIER
    architecture = architecture_of(bare.config) if isinstance(loaded, LoadedDense) else None
    if architecture in KINDS:
        return KINDS[architecture]
    if architecture in ARCHITECTURES:
        raise ValueError(
            f"{type(bare).__name__} cannot be exported: its second stage cuts out the proposals that the first one "
            f"finds, as many as there are. Of those that find objects, {', '.join(_detectors())} can."
        )
    raise ValueError(
        f"{type(bare).__name__} is no image classifier, segmenter or detector; no other models are exported."
    )


def _detectors() -> list[str]:
    return [name for name, row in ARCHITECTURES.items() if row.find is not None and name in KINDS]


class Outputs(nn.Module):
    """A model with the call of its kind, which a graph is traced from and compared with.

    Args:
        model (`nn.Module`): In evaluation mode.
        kind (`Kind`): Its row.
        options (`Mapping[str, bool]`): Further arguments of the model's call.
    """

    def __init__(self, model: nn.Module, kind: Kind, options: Mapping[str, bool]) -> None:
        super().__init__()
        self.model, self.kind, self.options = model, kind, dict(options)

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """What the kind gives, of the pixels and, where it takes one, their mask."""
        return self.kind.call(self.model, inputs, self.options)

    def with_tensors(self, tensors: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The same with other tensors, by their names in the model."""
        if not tensors:
            return self(inputs)
        named = {f"model.{name}": tensor for name, tensor in tensors.items()}
        return torch.func.functional_call(self, named, (inputs,))
