"""`mona-peft app`: trained models tried in the browser, or written as a Hugging Face Space."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from mona_peft.finetuning.app.config import AppConfig
from mona_peft.finetuning.arguments import split_name
from mona_peft.finetuning.command_line import parse_arguments

from .command import Command, Job, program

ABOUT = "Try trained models on pictures in the browser, with the adapter on and off; or write them as a Space."
EXAMPLES = ("outputs/photos-mona/model user/name", "user/name --export_space my-space")


def read(words: Sequence[str]) -> Job:
    """Read `REPO [REPO ...]` and the settings.

    Raises:
        ValueError: If no model is named.
    """
    repositories: list[str] = []
    name, words = split_name(words)
    while name is not None:
        repositories.append(name)
        name, words = split_name(words)
    (config,) = parse_arguments((AppConfig,), words, program("app", ABOUT, EXAMPLES, positionals="REPO [REPO ...]"))
    if not repositories:
        raise ValueError("No model was given: mona-peft app FOLDER, or mona-peft app user/name.")
    return partial(run, repositories, config)


def run(repositories: list[str], config: AppConfig) -> object:
    """Serve the models, or write the Space."""
    from mona_peft.finetuning.app.models import AppModels, name_models

    origins = name_models(repositories, config.base_model)
    if config.export_space:
        from mona_peft.finetuning.app.space import write_space

        return write_space(origins, config.export_space, config.top_k, config.threshold)
    from mona_peft.finetuning.app.page import serve

    return serve(AppModels(origins, config.top_k, config.threshold), config.port)


COMMAND = Command(ABOUT, read)
