"""Settings of an export."""

from __future__ import annotations

from dataclasses import dataclass

from mona_peft.finetuning.settings import Settings, option


@dataclass
class ExportConfig(Settings):
    """What to export, and how."""

    model: str = option("", "Trained repository: a folder, or user/name on the Hub.")
    output: str = option("", "File to write: .onnx, or .pt2 for the format torch. It must not exist.")
    format: str = option("onnx", "For onnxruntime, or for torch.export.load.", choices=("onnx", "torch"))
    precision: str = option(
        "float32",
        "Half precision and eight-bit weights are for ONNX; int8 makes the smallest files.",
        choices=("float32", "float16", "int8"),
    )
    adapter_inputs: bool = option(False, "Make the adapter's tensors inputs: one file for all of its configuration.")
    tolerance: float | None = option(
        None, "Largest difference from PyTorch, as a share of the largest output; by the precision if unset.", above=0
    )
    dynamic_size: bool = option(False, "Take pictures of any height and width, in steps that the file says.")
    image_size: int | None = option(
        None,
        "Side of the square that pictures of a segmenter or detector are padded to; their longest side if unset.",
        least=32,
    )
    base_model: str | None = option(None, "Take the base model from here instead of where it was.")

    def __post_init__(self) -> None:
        """Check what can be checked without the model."""
        super().__post_init__()
        if not self.model:
            raise ValueError("No model was given: --model FOLDER or --model user/name.")
        if not self.output:
            raise ValueError("No file to write was given: --output model.onnx.")
