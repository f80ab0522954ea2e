"""How a command speaks when something goes wrong: one line, no traceback; and how it keeps libraries from talking."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

#: Errors whose message is meant for the user; of others the type is told as well.
FOR_USERS = (ValueError, OSError, FloatingPointError, ImportError, RuntimeError)
#: What libraries say of their own future, which no user of the command can do anything about.
KNOWN_WARNINGS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
LIBRARY = "transformers"
#: Of modules that are not in the extra [train], the extra that has them.
EXTRAS = {"gradio": "app"}
IN_WORKER = "in DataLoader worker process"


def one_line(error: BaseException) -> str:
    """What happened, on one line, with what was noted about it on the way."""
    text = str(error)
    if IN_WORKER in text:
        # The worker's traceback as text; its last line is the error.
        text = text.strip().splitlines()[-1].partition(": ")[2] or text
    elif isinstance(error, ModuleNotFoundError) and error.name:
        extra = EXTRAS.get(error.name, "train")
        text = f"{error.name} is not installed: install mona-peft with its extra [{extra}]."
    elif not isinstance(error, FOR_USERS):
        text = f"{type(error).__name__}: {text} (--debug shows where)"
    parts = [text or type(error).__name__, *getattr(error, "__notes__", [])]
    return " ".join(" ".join(parts).split())


@contextmanager
def quiet() -> Iterator[None]:
    """Warnings on one line each, and no word of libraries about deprecations and which weights they loaded."""
    report = logging.getLogger(LIBRARY)
    level = report.level
    with warnings.catch_warnings():
        for category in KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", category=category)
        warnings.showwarning = _show
        report.setLevel(logging.ERROR)
        try:
            yield
        finally:
            report.setLevel(level)


def _show(message: Warning | str, category: type[Warning], *place: object, **more: object) -> None:
    print(f"Warning: {' '.join(str(message).split())}", file=sys.stderr)
