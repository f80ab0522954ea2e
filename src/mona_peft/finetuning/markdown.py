"""Markdown: tables, and texts that are shown word for word."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: Characters that mean something in Markdown, HTML or a table.
MARKUP = re.compile(r"[\\`*_{}\[\]()#+!|<>&~$:@-]")


def escape(text: str) -> str:
    """Text that Markdown, HTML and tables show as it is."""
    line = " ".join(text.split())
    return MARKUP.sub(lambda found: f"&#{ord(found.group())};", line)


def code(text: str) -> str:
    """Text as inline code, whatever backticks it holds."""
    line = " ".join(text.split())
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{ticks} {line} {ticks}" if "`" in line else f"`{line}`"


def fence(text: str, language: str) -> str:
    """Text as a block of code, whatever backticks it holds."""
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{ticks}{language}\n{text.strip()}\n{ticks}"


def escape_markdown(text: str) -> str:
    """Text as Markdown shows it in a cell of a table, word for word."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(text.split()))


def table(lines: Iterable[Iterable[str]]) -> str:
    """The lines of a table, each as its cells."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
