"""`mona-peft inspect`: what of a model is adapted, what is not and why; a proved row for blocks that are not known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mona_peft.finetuning.arguments import split_name
from mona_peft.finetuning.command_line import parse_arguments
from mona_peft.finetuning.settings import Settings, option

from .command import Command, Job, program

ABOUT = "Say what of a model is adapted and what is not; propose a proved row for blocks that are not known."
EXAMPLES = ("microsoft/swin-tiny-patch4-window7-224", "vit_small_patch14_dinov2 --output my-blocks")


@dataclass
class InspectConfig(Settings):
    """What to look at."""

    image_size: int | None = option(None, "Side of the trial images; what the model says if unset.", least=1)
    output: str | None = option(
        None, "New folder for adapter_config.json, Mona's configuration with the proposed row."
    )


def read(words: Sequence[str]) -> Job:
    """Read `MODEL` and the settings.

    Raises:
        ValueError: If no model is named.
    """
    model, words = split_name(words)
    (config,) = parse_arguments((InspectConfig,), words, program("inspect", ABOUT, EXAMPLES, positionals="MODEL"))
    if not model:
        raise ValueError("Name the model to look at: mona-peft inspect MODEL.")
    return partial(run, model, config)


def run(name: str, config: InspectConfig) -> object:
    """Build the model with random weights, look at it, and write the configuration.

    Raises:
        ValueError: If the folder is not empty, or nothing of the model can be adapted.
    """
    import torch

    from mona_peft.finetuning.models.untrained import build_untrained
    from mona_peft.inspection import inspect_backbone

    folder = Path(config.output) if config.output else None
    if folder is not None and folder.exists() and any(folder.iterdir()):
        raise ValueError(f"The folder {folder} is not empty; name a new one with --output.")
    side = config.image_size
    report = inspect_backbone(build_untrained(name), None if side is None else torch.zeros(1, 3, side, side).normal_())
    print(report)
    if folder is not None:
        report.config().save_pretrained(str(folder))
        print(f"\nMonaConfig.from_pretrained({str(folder)!r}) has the row.")
    elif report.proposals:
        print("\n--output FOLDER writes a configuration with the row.")
    return report


COMMAND = Command(ABOUT, read)
