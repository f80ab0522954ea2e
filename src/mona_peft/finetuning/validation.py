"""Checks of a repository's files before anything is built from them.

Whoever loads a repository may have it from anybody. Each check ends in a [`RepositoryError`] of one line that names
the file, the value and what to do.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from safetensors import SafetensorError, safe_open

from mona_peft.tuners.base.field_types import fits

from .files import Json

Shapes = dict[str, tuple[int, ...]]

MOST_BYTES = 16 * 2**20
MOST_DEPTH = 40
#: No size in a configuration of a vision model is larger; more classes than this do not fit a confusion either.
MOST = 1_000_000
MOST_LAYERS = 1_000
LAYER_COUNT = re.compile(r"depths?$|layers?$|blocks?$|stages?$")
EXPRESSION = re.compile(r"[*+?{]")
EXPRESSION_SECONDS = 10.0
AGAIN = "Save the repository again, or download it again."

# Tries every expression on every name, as PEFT does; a text that does not compile is no expression.
TRY_EXPRESSIONS = """
import json, re, sys
expressions, names = json.load(sys.stdin)
for expression in expressions:
    try:
        compiled = re.compile(rf"(.*\\.)?({expression})$"), re.compile(rf".*\\.{expression}\\.(\\d+)\\.")
    except (re.error, OverflowError, RecursionError):
        compiled = ()
    for name in names:
        for pattern in compiled:
            pattern.match(name)
    print(json.dumps(expression), flush=True)
"""


class RepositoryError(ValueError):
    """A repository that cannot be loaded; the message says which file is wrong, how, and what to do."""


def first_line(error: BaseException) -> str:
    """The message of an error of another library, in one line and without a terminal's colours."""
    words = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
    return words[:300] or type(error).__name__


def read_json(path: Path) -> Json:
    """Read a configuration file.

    Args:
        path (`Path`): Of the file.

    Raises:
        RepositoryError: If it is no file, too large, not UTF-8, no JSON object, nested deeply, or holds a number that
            no model has.
    """
    name = path.name
    if not path.is_file():
        raise RepositoryError(f"{path} is {'a folder' if path.is_dir() else 'missing'}; it must be a file. {AGAIN}")
    if path.stat().st_size > MOST_BYTES:
        raise RepositoryError(f"{path} has {path.stat().st_size} bytes; at most {MOST_BYTES} are read. {AGAIN}")
    try:
        content = json.loads(path.read_bytes().decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RepositoryError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}). {AGAIN}") from error
    except RecursionError as error:
        raise RepositoryError(f"{path} is nested more than {MOST_DEPTH} deep. {AGAIN}") from error
    except (ValueError, OSError) as error:
        raise RepositoryError(f"{path} is no JSON: {first_line(error)}. {AGAIN}") from error
    if not isinstance(content, dict):
        raise RepositoryError(f"{path} holds {str(content)[:40]!r}; it must be a JSON object of settings. {AGAIN}")
    for key, value, depth in _walk(content):
        _check_value(name, key, value, depth)
    return content


def _walk(content: object) -> Iterator[tuple[str, object, int]]:
    """Every value with the key that it is under and its depth."""
    waiting = [("", content, 0)]
    while waiting:
        key, value, depth = waiting.pop()
        yield key, value, depth
        if isinstance(value, dict):
            waiting += [(inner, below, depth + 1) for inner, below in value.items()]
        elif isinstance(value, list):
            waiting += [(key, below, depth + 1) for below in value]


def _check_value(name: str, key: str, value: object, depth: int) -> None:
    if depth > MOST_DEPTH:
        raise RepositoryError(f"{name} is nested more than {MOST_DEPTH} deep. {AGAIN}")
    if isinstance(value, bool) or not isinstance(value, int):
        return
    most = MOST_LAYERS if LAYER_COUNT.search(key) else MOST
    if abs(value) > most:
        shown = f"{value:.3g}" if abs(value) < 10**300 else "a number of more than 300 digits"
        raise RepositoryError(f"{name}: {key}={shown} is beyond {most}, the most that is loaded. Correct {key!r}.")


def check_text(name: str, content: Mapping[str, object], key: str) -> str | None:
    """A setting that is a text, or nothing.

    Raises:
        RepositoryError: If it is something else.
    """
    value = content.get(key)
    if value is not None and not isinstance(value, str):
        raise RepositoryError(f"{name}: {key}={value!r} must be a text or null. Correct {key!r}.")
    return value or None


def check_adapter_config(content: Mapping[str, object], name: str) -> None:
    """Check that PEFT knows the method of an adapter, and the type of each of its settings.

    Args:
        content (`Mapping[str, object]`): Of `adapter_config.json`.
        name (`str`): Of the file, for the message.

    Raises:
        RepositoryError: If the method is unknown or no adapter of a vision model, or a setting has another type.
    """
    peft_type: Any = content.get("peft_type")  # members of PeftType are texts, and equal to them
    known = isinstance(peft_type, str) and peft_type in PEFT_TYPE_TO_TUNER_MAPPING and peft_type != "XLORA"
    if not known or peft_type not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise RepositoryError(
            f"{name}: peft_type={peft_type!r} is no method that this PEFT can load on a vision model. Known are "
            f"{', '.join(sorted(map(str.upper, PEFT_TYPE_TO_TUNER_MAPPING)))}; a newer one may need a newer peft."
        )
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[peft_type]
    hints = typing.get_type_hints(config_class)
    for field in fields(config_class):
        if field.name in content and not fits(content[field.name], hints[field.name], from_file=True):
            raise RepositoryError(
                f"{name}: {field.name}={content[field.name]!r} must be of the type {_spoken(hints[field.name])}. "
                f"Correct {field.name!r}."
            )


def _spoken(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")


def check_expressions(content: Mapping[str, object], names: Iterable[str], file: str) -> None:
    """Try every text that may be a regular expression on the names of the modules, in a process that can be ended.

    Args:
        content (`Mapping[str, object]`): Of `adapter_config.json`.
        names (`Iterable[str]`): Of the model's modules.
        file (`str`): For the message.

    Raises:
        RepositoryError: If one takes longer than any sensible one does.
    """
    texts = {value: key for key, value, _ in _walk(content) if isinstance(value, str)}
    texts |= {text: key for key, value, _ in _walk(content) if isinstance(value, dict) for text in value}
    suspects = sorted(text for text in texts if EXPRESSION.search(text))
    if not suspects:
        return
    try:
        subprocess.run(
            [sys.executable, "-I", "-c", TRY_EXPRESSIONS],
            input=json.dumps([suspects, list(names)]),
            stdout=subprocess.PIPE,
            text=True,
            timeout=EXPRESSION_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        done = len((error.stdout or b"").splitlines())
        text = suspects[min(done, len(suspects) - 1)]
        raise RepositoryError(
            f"{file}: the regular expression {text[:80]!r} ({texts[text] or 'a key'}) does not come to an end on the "
            "model's names. Name the modules in a list instead."
        ) from error


def read_shapes(path: Path) -> Shapes:
    """Names and shapes of the tensors of a safetensors file, of which only the header is read.

    Raises:
        RepositoryError: If it is no whole safetensors file.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "missing"
        raise RepositoryError(f"{path} is {found}; it must hold weights, and pickles are not loaded. {AGAIN}")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise RepositoryError(f"{path} is no whole safetensors file: {first_line(error)}. {AGAIN}") from error


def compare_shapes(found: Shapes, wanted: Shapes, file: str, model: str, may_lack: bool = False) -> None:
    """Check that a file has exactly the tensors that a model takes from it.

    Args:
        found (`Shapes`): In the file.
        wanted (`Shapes`): In the model.
        file (`str`): For the message.
        model (`str`): For the message: what the file must fit.
        may_lack (`bool`): Whether tensors of the model may be missing from the file.

    Raises:
        RepositoryError: If tensors are missing, unknown or of another shape; names the first.
    """
    missing = [] if may_lack else sorted(wanted.keys() - found.keys())
    unknown = sorted(found.keys() - wanted.keys())
    others = [
        f"{name} is {list(found[name])} in place of {list(wanted[name])}"
        for name in sorted(found.keys() & wanted.keys())
        if found[name] != wanted[name]
    ]
    problems = [
        f"{text} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for text, names in (("it lacks", missing), ("it has unknown tensors", unknown), ("", others))
        if names
    ]
    if problems:
        raise RepositoryError(
            f"{file} does not fit {model}: {'; '.join(problem.strip() for problem in problems)}. Give the base model "
            "that it was trained on (base_model=...), or save the repository again."
        )
