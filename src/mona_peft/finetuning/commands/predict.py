"""`mona-peft predict`: labels, boxes, masks or label maps of images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from mona_peft.finetuning.command_line import parse_arguments
from mona_peft.finetuning.data.sources.config import DataConfig
from mona_peft.finetuning.inference.config import PredictionConfig

from .command import Command, Job, program

ABOUT = "Predict images, or a split of a data set, with a trained model."
EXAMPLES = (
    "--model outputs/photos-mona/model --images new.jpg holiday --output labels.csv",
    "--model user/name --dataset oxford_pets --split test --output labels.parquet",
)


def read(words: Sequence[str]) -> Job:
    """Read the command line."""
    texts = program("predict", ABOUT, EXAMPLES, positionals="")
    return partial(run, *parse_arguments((PredictionConfig, DataConfig), words, texts))


def run(config: PredictionConfig, data: DataConfig) -> list[dict[str, object]]:
    """Predict and write the results."""
    from mona_peft.finetuning.inference.predict import predict

    return predict(config, data)


COMMAND = Command(ABOUT, read)
