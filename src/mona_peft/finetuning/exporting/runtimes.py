"""The two kinds of files: how a graph is written to each, with facts about it, and run from it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mona_peft.finetuning.files import Json

from .graph import Graph

FACTS = "mona_peft.json"  # name of the facts inside a file
OPSET = 20  # the newest that onnxruntime 1.20, the oldest supported, runs whole

#: Gives the outputs of a file, in turn, for inputs by name.
Run = Callable[[dict[str, Tensor]], Sequence[Tensor]]


@dataclass(frozen=True)
class Runtime:
    """One row of the table of formats.

    Args:
        suffix (`str`): Of its files.
        precisions (`tuple[str, ...]`): That it can be written in.
        write (`Callable`): `write(graph, path, precision)`.
        store (`Callable`): `store(path, graph, facts)` adds the facts to a file.
        load (`Callable`): `load(path)` gives back a `Run`.
    """

    suffix: str
    precisions: tuple[str, ...]
    write: Callable[[Graph, Path, str], None]
    store: Callable[[Path, Graph, Json], None]
    load: Callable[[Path], Run]


def write_onnx(graph: Graph, path: Path, precision: str) -> None:
    """Write an ONNX file in one of its precisions."""
    import onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph.program,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=graph.inputs,
            output_names=graph.outputs,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    program.save(path, external_data=False)
    if precision == "float16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), path)
    elif precision == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        plain = path.with_name(f"{path.name}.plain")
        path.rename(plain)
        try:
            quantize_dynamic(plain, path, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])
        finally:
            plain.unlink()


def store_onnx(path: Path, graph: Graph, facts: Json) -> None:
    """Write facts into the metadata of an ONNX file."""
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, {FACTS: json.dumps(facts)})
    onnx.save(model, path)


def load_onnx(path: Path) -> Run:
    """Load an ONNX file in onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    known = {each.name for each in session.get_inputs()}

    def run(inputs: dict[str, Tensor]) -> Sequence[Tensor]:
        given = {name: tensor.numpy() for name, tensor in inputs.items() if name in known}
        return [torch.from_numpy(output) for output in session.run(None, given)]

    return run


def write_torch(graph: Graph, path: Path, precision: str) -> None:
    """Write an exported program."""
    torch.export.save(graph.program, path)


def store_torch(path: Path, graph: Graph, facts: Json) -> None:
    """Write facts about an exported program into its file."""
    torch.export.save(graph.program, path, extra_files={FACTS: json.dumps(facts)})


def load_torch(path: Path) -> Run:
    """Load an exported program."""
    module = torch.export.load(path).module()

    def run(inputs: dict[str, Tensor]) -> Sequence[Tensor]:
        with torch.no_grad():
            return module(*inputs.values())

    return run


RUNTIMES = {
    "onnx": Runtime(".onnx", ("float32", "float16", "int8"), write_onnx, store_onnx, load_onnx),
    "torch": Runtime(".pt2", ("float32",), write_torch, store_torch, load_torch),
}


def read_facts(path: str | Path) -> Json:
    """What an exported file says of itself: labels, how to prepare a picture, its sizes and how it was checked.

    Raises:
        ValueError: If it is no file that [`mona_peft.export`] wrote.
    """
    path = Path(path)
    facts: str | None = None
    if path.suffix == RUNTIMES["onnx"].suffix and path.exists():
        import onnx

        props = onnx.load(path, load_external_data=False).metadata_props
        facts = next((entry.value for entry in props if entry.key == FACTS), None)
    elif path.suffix == RUNTIMES["torch"].suffix and path.exists():
        extra = {FACTS: ""}
        torch.export.load(path, extra_files=extra)
        facts = extra[FACTS] or None
    if facts is None:
        raise ValueError(f"{path} is no file that mona_peft.export wrote; export the model again.")
    return json.loads(facts)
