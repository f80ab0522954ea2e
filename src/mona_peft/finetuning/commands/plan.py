"""`mona-peft plan`: what training will hold in memory, before it is paid."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from mona_peft.finetuning.command_line import parse_arguments
from mona_peft.finetuning.costs.plan_config import PlanConfig

from .command import Command, Job, program

ABOUT = "Tell what each method will hold in memory, and the largest batch that fits, without weights, data or GPU."
EXAMPLES = (
    "--model swin-t --image_size 224 --method full lora mona --memory 24GB",
    "--model vit-b --precision autocast --memory 16GiB",
    "--task semantic_segmentation --image_size 512 --method mona --memory 24GB",
    "--task detection --architecture detr --image_size 800 --objects 20 --method lora mona",
)


def read(words: Sequence[str]) -> Job:
    """Read the command line."""
    texts = program("plan", ABOUT, EXAMPLES, positionals="")
    return partial(run, *parse_arguments((PlanConfig,), words, texts))


def run(config: PlanConfig) -> object:
    """Plan, and print a table."""
    from mona_peft.finetuning.costs.plan import plan_memory
    from mona_peft.finetuning.costs.plan_report import plan_table

    rows = plan_memory(config)
    print(plan_table(config, rows))
    return rows


COMMAND = Command(ABOUT, read)
