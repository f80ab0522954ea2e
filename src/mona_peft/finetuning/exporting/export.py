"""A classifier as one file, compared with PyTorch before it is given out.

`mona_peft.export("user/pets-mona", "pets.onnx")`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mona_peft.finetuning.environment import package_versions
from mona_peft.finetuning.inference.classification import LoadedClassifier
from mona_peft.finetuning.inference.loading import load
from mona_peft.finetuning.inference.predictor import Loaded

from .checking import TOLERANCES, Check, compare, other_weights
from .graph import Graph, adapter_tensors, trace
from .pictures import preparation, prepare_photographs
from .runtimes import RUNTIMES

ADAPTERS = 3  # sets of weights that a graph with adapter inputs is checked with


def export(
    model: str | Path | Loaded,
    path: str | Path,
    format: str = "onnx",
    precision: str = "float32",
    adapter_inputs: bool = False,
    tolerance: float | None = None,
    **options: Any,
) -> Check:
    """Write base model, adapter and head to one file, with labels and how a picture is prepared as metadata.

    The batch is dynamic; height and width are those the image processor makes. The file is loaded and compared with
    PyTorch on photographs at two batch sizes; it appears only if it agrees.

    Args:
        model (`str`, `Path` or `Loaded`): A repository, or what `mona_peft.load` gave.
        path (`str` or `Path`): The file to write; it must not exist.
        format (`str`): `"onnx"`, or `"torch"` for `torch.export.load`.
        precision (`str`): `"float32"`; of ONNX also `"float16"`, and `"int8"` for weights quantised by onnxruntime.
        adapter_inputs (`bool`): Whether the adapter's tensors, head included, are inputs of the graph, by the names
            they have in the adapter's file: one file then serves every adapter of the same configuration.
        tolerance (`float`, *optional*): The largest difference allowed, as a share of the largest logit; by the
            precision if left out.
        **options: Of `mona_peft.load`.

    Returns:
        `Check`: How far the file is from PyTorch.

    Raises:
        ValueError: If there is no such format or precision, the file exists, the model cannot be exported, or the
            file disagrees with it.
    """
    path = _check_arguments(format, precision, adapter_inputs, Path(path))
    if isinstance(model, Loaded) and options:
        raise ValueError(f"{', '.join(options)}: options of load are for a repository; the model is loaded already.")
    loaded = model if isinstance(model, Loaded) else load(model, **options)
    if not isinstance(loaded, LoadedClassifier):
        raise ValueError(f"{type(loaded.bare_model()).__name__} is no image classifier; no other models are exported.")
    loaded.model.eval()
    pixels = prepare_photographs(loaded)
    replaced = adapter_tensors(loaded.model) if adapter_inputs else {}
    graph = trace(loaded.model, pixels[:2], replaced)
    return _write(loaded, graph, path, format, precision, _adapters(loaded.model, replaced), pixels, tolerance)


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


def _adapters(model: nn.Module, replaced: Mapping[str, str]) -> list[dict[str, Any]]:
    """Sets of adapter weights to check with: the model's own, and others where they are inputs."""
    state = model.state_dict()
    own = {name: (place, state[place]) for name, place in replaced.items()}
    return [own, *(other_weights(own, seed) for seed in range(1, ADAPTERS))] if own else [own]


def _write(
    loaded: LoadedClassifier,
    graph: Graph,
    path: Path,
    format: str,
    precision: str,
    adapters: list[dict[str, Any]],
    pixels: torch.Tensor,
    tolerance: float | None,
) -> Check:
    runtime = RUNTIMES[format]
    most = TOLERANCES[precision] if tolerance is None else tolerance
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.incomplete{path.suffix}")
    try:
        runtime.write(graph, temporary, precision)
        check = compare(runtime.load(temporary), loaded.model, pixels, adapters)
        if not check.relative <= most:
            raise ValueError(
                f"{path} was not kept: it differs from PyTorch by {check.difference:.3g}, {check.relative:.2g} of the "
                f"largest logit, where {most:.2g} is allowed, and {check.agreement:.1%} of the labels agree. Choose "
                "another precision or a larger tolerance."
            )
        runtime.store(temporary, graph, _facts(loaded, graph, precision, check))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return check


def _facts(loaded: LoadedClassifier, graph: Graph, precision: str, check: Check) -> dict[str, Any]:
    bare = loaded.bare_model()
    config: Any = getattr(bare, "config", None)
    labels = getattr(config, "id2label", None) or {}
    return {
        "model": type(bare).__name__,
        "problem_type": getattr(config, "problem_type", None),
        "labels": [labels[number] for number in sorted(labels)],
        "preparation": preparation(loaded.processor),
        "inputs": graph.inputs,
        "precision": precision,
        "check": asdict(check),
        "versions": package_versions(),
    }
