"""`mona-peft export`: base model, adapter and head as one file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from mona_peft.finetuning.command_line import parse_arguments
from mona_peft.finetuning.exporting.config import ExportConfig

from .command import Command, Job, program

ABOUT = "Write a trained model to one file, for ONNX or torch.export, and compare it with PyTorch."
EXAMPLES = (
    "--model outputs/photos-mona/model --output photos.onnx",
    "--model user/name --output photos.onnx --precision int8",
    "--model outputs/rooms/model --output rooms.onnx --image_size 512",
)


def read(words: Sequence[str]) -> Job:
    """Read the command line."""
    texts = program("export", ABOUT, EXAMPLES, positionals="")
    return partial(run, *parse_arguments((ExportConfig,), words, texts))


def run(config: ExportConfig) -> object:
    """Export, and print how far the file is from PyTorch."""
    from mona_peft.finetuning.exporting.export import export

    check = export(
        config.model,
        config.output,
        config.format,
        config.precision,
        config.adapter_inputs,
        config.tolerance,
        dynamic_size=config.dynamic_size,
        image_size=config.image_size,
        base_model=config.base_model,
    )
    print(
        f"{config.output}: the largest difference from PyTorch is {check.difference:.3g}, {check.relative:.2g} of the "
        f"largest output, and {check.agreement:.1%} of the labels agree, at batches of "
        f"{' and '.join(map(str, check.batches))}."
    )
    return check


COMMAND = Command(ABOUT, read)
