"""`mona-peft benchmark`: what each method costs in time and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from mona_peft.finetuning.command_line import parse_arguments
from mona_peft.finetuning.costs.config import CostsConfig, OutputConfig

from .command import Command, Job, program

ABOUT = "Measure what each method costs in time and memory, on one task, model and batch."
EXAMPLES = (
    "--model swin-t --image_size 224 --batch_size 8 --threads 2",
    "--task semantic_segmentation --image_size 512 --batch_size 2",
    "--scale_batch_size 2 4 8 16 --scale_image_size 224 384 512 --scale_model swin-t swin-s",
    "--autocast bfloat16 --processes 2 --methods lora mona-plain mona",
    "--profile --methods mona-plain mona",
)


def read(words: Sequence[str]) -> Job:
    """Read the command line."""
    texts = program("benchmark", ABOUT, EXAMPLES, positionals="")
    return partial(run, *parse_arguments((CostsConfig, OutputConfig), words, texts))


def run(config: CostsConfig, output: OutputConfig) -> Mapping[str, object]:
    """Measure and write the results."""
    from mona_peft.finetuning.costs.output import measure

    return measure(config, output)


COMMAND = Command(ABOUT, read)
