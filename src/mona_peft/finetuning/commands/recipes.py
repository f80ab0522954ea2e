"""`mona-peft recipes`: the recipes that come with the package."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from mona_peft.finetuning import recipes
from mona_peft.finetuning.arguments import split_name
from mona_peft.finetuning.command_line import parse_arguments

from .command import Command, Job, program

ABOUT = "List the packaged recipes, or print one of them."


def read(words: Sequence[str]) -> Job:
    """Read `[NAME]`."""
    name, words = split_name(words)
    parse_arguments((), words, program("recipes", ABOUT, ("", "swin-large-flowers102"), positionals="[NAME]"))
    return partial(print_recipe, name) if name and recipes.path(name) else list_recipes


def list_recipes() -> None:
    """Print names and what they are."""
    width = max(map(len, recipes.names()))
    for name in recipes.names():
        print(f"{name:<{width}}  {recipes.description(name)}")
    print("\nmona-peft train TASK NAME runs one; mona-peft recipes NAME prints it.")


def print_recipe(name: str) -> None:
    """Print a recipe as it is."""
    print(recipes.path(name).read_text(encoding="utf-8"), end="")


COMMAND = Command(ABOUT, read)
