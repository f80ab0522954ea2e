"""Figures of committed results in the sentences of a document, such as `(digits: mona 89.7 ± 4.4, lora 76.0 ± 5.6)`.

The name is a folder of results; each figure is mean and standard deviation of the test metric in percent.
"""

from __future__ import annotations

import re
from pathlib import Path

from .records import RESULTS_FILE
from .report import Results

FIGURE = re.compile(r"(?P<label>[^,:()]+?)\s(?P<value>-?[\d.]+ ± [\d.]+)")
CITATION = re.compile(r"\((?P<name>[\w-]+):\s(?P<figures>[^()]*? ± [\d.]+)\)")


def refresh_citations(text: str, results: Path) -> str:
    """Put the figures of the results as they are into a document.

    Args:
        text (`str`): The document; citations that name no folder of results stay.
        results (`Path`): Folder of the results' folders.

    Raises:
        ValueError: If a citation names a line that its results do not have, or two folders.
    """

    def renew(found: re.Match[str]) -> str:
        folder = results / found["name"]
        if not (folder / RESULTS_FILE).exists():
            return found[0]
        if ":" in found["figures"]:
            raise ValueError(f"{found[0]} cites two folders; write brackets for each.")
        rows = {row.label: row for row in Results.load(folder).rows}

        def figure(part: re.Match[str]) -> str:
            label = " ".join(part["label"].split())
            if label not in rows:
                raise ValueError(f"{found[0]} cites {label!r}; {folder} has {', '.join(rows)}.")
            value = f"{100 * rows[label].mean:.1f} ± {100 * rows[label].std:.1f}"
            return part[0].removesuffix(part["value"]) + value

        return found[0].replace(found["figures"], FIGURE.sub(figure, found["figures"]))

    return CITATION.sub(renew, text)
