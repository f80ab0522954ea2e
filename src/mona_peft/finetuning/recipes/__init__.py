"""The recipes that come with the package, by name; each is a YAML file in this folder whose head says what it gives.

`accelerate/` holds launch configurations for `accelerate launch --config_file`.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
SUFFIXES = (".yaml", ".yml")


def names() -> list[str]:
    """The names of the recipes, sorted."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def path(name: str) -> Path:
    """The file of a recipe.

    Args:
        name (`str`): A name of [`names`], or a path of a YAML file of one's own.

    Raises:
        ValueError: If there is no such recipe.
    """
    if name.endswith(SUFFIXES):
        return Path(name)
    if name not in names():
        raise ValueError(f"There is no recipe {name!r}; give a YAML file, or one of {', '.join(names())}.")
    return FOLDER / f"{name}.yaml"


def launch_config(name: str) -> Path:
    """The file of a launch configuration of accelerate.

    Args:
        name (`str`): `cpu`, `fsdp` or `deepspeed_zero2`.

    Raises:
        ValueError: If there is no such configuration.
    """
    known = sorted(file.stem for file in (FOLDER / "accelerate").glob("*.yaml"))
    if name not in known:
        raise ValueError(f"There is no launch configuration {name!r}; choose one of {', '.join(known)}.")
    return FOLDER / "accelerate" / f"{name}.yaml"


def head(name: str) -> str:
    """What a recipe says of itself: the comment that it begins with, without its signs."""
    lines = path(name).read_text(encoding="utf-8").splitlines()
    comment = lines[: next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))]
    return "\n".join(line[1:].removeprefix(" ") for line in comment)


def description(name: str) -> str:
    """The first paragraph of a recipe's head, on one line."""
    return " ".join(head(name).partition("\n\n")[0].split())
