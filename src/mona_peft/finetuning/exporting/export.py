"""A model as one file, compared with PyTorch before it is given out.

`mona_peft.export("user/pets-mona", "pets.onnx")`
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mona_peft.finetuning.environment import package_versions
from mona_peft.finetuning.files import Json
from mona_peft.finetuning.inference.classification import LoadedClassifier
from mona_peft.finetuning.inference.loading import load
from mona_peft.finetuning.inference.predictor import Loaded
from mona_peft.finetuning.validation import first_line

from .checking import TOLERANCES, Check, compare, other_weights
from .frames import Frame, find_frame, preparation, prepare_photographs, resize
from .graph import Graph, adapter_tensors, trace
from .kinds import Outputs, kind_of
from .runtimes import RUNTIMES, Run

ADAPTERS = 3  # sets of weights that a graph with adapter inputs is checked with


def export(
    model: str | Path | Loaded,
    path: str | Path,
    format: str = "onnx",
    precision: str = "float32",
    adapter_inputs: bool = False,
    tolerance: float | None = None,
    dynamic_size: bool = False,
    image_size: int | None = None,
    **options: Any,
) -> Check:
    """Write base model, adapter and head to one file, with labels and how a picture is prepared as metadata.

    A classifier, a segmenter or a detector; the metadata tell what its outputs are. The batch is dynamic. The
    file is loaded and compared with PyTorch on photographs at two batch sizes; it appears only if it agrees.

    Args:
        model (`str`, `Path` or `Loaded`): A repository, or what `mona_peft.load` gave.
        path (`str` or `Path`): The file to write; it must not exist.
        format (`str`): `"onnx"`, or `"torch"` for `torch.export.load`.
        precision (`str`): `"float32"`; of ONNX also `"float16"`, and `"int8"` for weights quantised by onnxruntime.
        adapter_inputs (`bool`): Whether the adapter's tensors, head included, are inputs of the graph, by the names
            they have in the adapter's file: one file then serves every adapter of the same configuration.
        tolerance (`float`, *optional*): The largest difference allowed, as a share of the largest number of an
            output; by the precision if left out.
        dynamic_size (`bool`): Whether height and width are dynamic as well; they are checked at two sizes then.
        image_size (`int`, *optional*): Of a segmenter or detector whose height and width are fixed: side of the square
            that pictures are made to fit into and padded to; the longest side of test pictures if left out.
        **options: Of `mona_peft.load`.

    Returns:
        `Check`: How far the file is from PyTorch.

    Raises:
        ValueError: If there is no such format or precision, the file exists, the model cannot be exported, or the
            file disagrees with it.
    """
    path = _check_arguments(format, precision, adapter_inputs, Path(path))
    if dynamic_size and image_size is not None:
        raise ValueError(f"image_size={image_size} is for a graph of one size; leave it out with dynamic_size.")
    if isinstance(model, Loaded) and options:
        raise ValueError(f"{', '.join(options)}: options of load are for a repository; the model is loaded already.")
    loaded = model if isinstance(model, Loaded) else load(model, **options)
    kind = kind_of(loaded)
    loaded.model.eval()
    frame = find_frame(loaded, dynamic_size, image_size)
    outputs = Outputs(loaded.model, kind, _call_options(loaded, frame)).eval()
    inputs = prepare_photographs(loaded, kind, frame)
    replaced = adapter_tensors(loaded.model) if adapter_inputs else {}
    first = {name: tensor[:2] for name, tensor in resize(inputs, frame.traced).items()}
    graph = trace(outputs, first, frame, replaced)
    file = _File(path, format, precision, TOLERANCES[precision] if tolerance is None else tolerance)
    facts = _facts(loaded, outputs, graph, frame)
    adapters = _adapters(loaded.model, replaced)
    return _write(file, graph, facts, lambda run: compare(run, outputs, inputs, adapters, frame.checked))


def _check_arguments(format: str, precision: str, adapter_inputs: bool, path: Path) -> Path:
    if format not in RUNTIMES:
        raise ValueError(f"format={format!r} is none of {', '.join(RUNTIMES)}.")
    runtime = RUNTIMES[format]
    if precision not in runtime.precisions:
        raise ValueError(f"precision={precision!r} of {format} must be one of {', '.join(runtime.precisions)}.")
    if adapter_inputs and precision == "int8":
        raise ValueError("precision='int8' quantises weights in the file; with adapter_inputs they are not in it.")
    if path.suffix != runtime.suffix:
        raise ValueError(f"path={str(path)!r} must end in {runtime.suffix} for the format {format!r}.")
    if path.exists():
        raise ValueError(f"{path} exists already; remove it or choose another name.")
    return path


def _adapters(model: nn.Module, replaced: Mapping[str, str]) -> list[dict[str, tuple[str, Tensor]]]:
    """Sets of adapter weights to check with: the model's own, and others where they are inputs."""
    state = model.state_dict()
    own = {name: (place, state[place]) for name, place in replaced.items()}
    return [own, *(other_weights(own, seed) for seed in range(1, ADAPTERS))] if own else [own]


def _call_options(loaded: Loaded, frame: Frame) -> dict[str, bool]:
    """What a classifier has to be told for it to take other sizes than its own."""
    if not frame.multiple or not isinstance(loaded, LoadedClassifier):
        return {}
    name = "interpolate_pos_encoding"
    parameters = inspect.signature(loaded.bare_model().forward).parameters
    passed_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    inside = passed_on and any(
        name in inspect.signature(module.forward).parameters for module in loaded.bare_model().modules()
    )
    return {name: True} if name in parameters or inside else {}


@dataclass(frozen=True)
class _File:
    """What is to be written, and how far it may be from PyTorch."""

    path: Path
    format: str
    precision: str
    tolerance: float


def _write(file: _File, graph: Graph, facts: Json, check_run: Callable[[Run], Check]) -> Check:
    runtime, path = RUNTIMES[file.format], file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.incomplete{path.suffix}")
    try:
        with _explained(facts, file.format):
            runtime.write(graph, temporary, file.precision)
            check = check_run(runtime.load(temporary))
        if not check.relative <= file.tolerance:
            raise ValueError(
                f"{path} was not kept: it differs from PyTorch by {check.difference:.3g}, {check.relative:.2g} of the "
                f"largest number of an output, where {file.tolerance:.2g} is allowed, and {check.agreement:.1%} of "
                "the labels agree. Choose another precision or a larger tolerance."
            )
        runtime.store(temporary, graph, {**facts, "precision": file.precision, "check": asdict(check)})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return check


@contextmanager
def _explained(facts: Json, format: str) -> Iterator[None]:
    """Say which model a failure of an exporter or a runtime is about."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:  # of other libraries
        cause: BaseException = error
        while cause.__cause__ is not None:  # exporters say at length which of their steps failed, and why at the end
            cause = cause.__cause__
        reason = f"cannot be written for {format}, or not run: {first_line(cause)}"
        if "Guard failed" in reason:  # with pages of a formula
            dynamic = "dynamic height and width" if "multiple" in facts["sizes"] else "a dynamic batch"
            reason = f"cannot be exported with {dynamic}: its code tied the graph to the size that it was traced at."
        raise ValueError(f"{facts['model']} {reason}") from error


def _facts(loaded: Loaded, outputs: Outputs, graph: Graph, frame: Frame) -> Json:
    bare = loaded.bare_model()
    config = getattr(bare, "config", None)
    labels = getattr(config, "id2label", None) or getattr(bare, "id2label", None) or {}
    return {
        "model": type(bare).__name__,
        "problem_type": getattr(config, "problem_type", None),
        "labels": [labels[number] for number in sorted(labels)],
        "preparation": preparation(loaded, frame),
        "sizes": frame.facts(),
        "inputs": graph.inputs,
        "outputs": outputs.kind.outputs,
        "versions": package_versions(),
    }
