"""Which versions and which command computed a result, told without naming the machine."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PureWindowsPath

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

#: What a name begins with that torchvision, not the Hub, has weights for.
TORCHVISION = "torchvision/"
PACKAGES = ("mona-peft", "torch", "transformers", "peft", "accelerate", "datasets", "scikit-learn", "numpy")
# A path from the root, from a home or from a drive, inside a longer word such as `--options={"table": "/data/a.csv"}`.
INNER_PATH = re.compile(r"(?<![\w./~])(?:~|[A-Za-z]:(?=\\)|(?=/))(?:[/\\][^\s'\"/\\,;:=]+)+[/\\]?")


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def command_line(without: Collection[str] = ()) -> str:
    """The command that runs, fit for a shell; of paths from the root only the last name is told.

    Args:
        without (`Collection[str]`): Flags to leave out, with their values.
    """
    words = _program()
    leaving_out = False
    for word in sys.argv[1:]:
        if word.startswith("--"):
            leaving_out = word.partition("=")[0] in without
        if not leaving_out:
            words.append(without_paths(word))
    return shlex.join(words)


def made_by(without: Collection[str] = ()) -> dict[str, object]:
    """The command and the versions that make a result, as it records them.

    Args:
        without (`Collection[str]`): Flags to leave out, with their values.
    """
    return {"command": command_line(without), "versions": package_versions()}


def _program() -> list[str]:
    """How this program is called: by its command, or as a script."""
    script = Path(sys.argv[0])
    if script.stem == "mona-peft" or (script.name == "__main__.py" and script.parent.name == "mona_peft"):
        return ["mona-peft"]
    return ["python", f"scripts/{script.name}" if script.is_absolute() else str(script)]


def without_paths(word: str) -> str:
    """A word in which every path from the root, a home or the folder above is its last name."""
    flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    if names_a_place(value):
        return f"{flag}{equals}{last_name(value)}"
    return INNER_PATH.sub(lambda found: last_name(found.group()), word)


def names_a_place(value: str) -> bool:
    """Whether a text is a path that tells where on this machine something is."""
    return (
        Path(value).is_absolute()
        or PureWindowsPath(value).is_absolute()
        or value.startswith(("~/", "..", "file:"))
        or value == "~"
    )


def last_name(path: str) -> str:
    """The last name of a path of any system."""
    return PureWindowsPath(path).name or "."


def looks_like_path(name: str) -> bool:
    """Whether a name can only be a place on this machine, not an id on the Hub."""
    if Path(name).exists() or names_a_place(name) or name.startswith("."):
        return True
    try:
        validate_repo_id(name)
    except HFValidationError:
        return True
    return False


def is_first_process() -> bool:
    """Whether this is the process of a run that speaks for all of them."""
    return int(os.environ.get("RANK", "0")) == 0


def say(line: str) -> None:
    """Print a line, once for all processes of a run."""
    if is_first_process():
        print(line, flush=True)


def is_hub_id(name: str | None) -> bool:
    """Whether a name is `user/name` on the Hub, as far as its form tells, and no file or folder here."""
    if not name or name.count("/") != 1 or Path(name).exists() or names_a_place(name):
        return False
    if is_torchvision(name):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def is_torchvision(name: str) -> bool:
    """Whether a name is that of a model of torchvision."""
    return name.startswith(TORCHVISION)


def is_public(name: str) -> bool:
    """Whether a name means the same on every machine: it is on the Hub, or torchvision has it."""
    return is_hub_id(name) or is_torchvision(name)


def public_name(name: str) -> str:
    """A Hub id or name as it is; of a path, its last name."""
    return name if is_public(name) or not (names_a_place(name) or Path(name).exists()) else Path(name).resolve().name
