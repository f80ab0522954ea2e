"""Images in the rows of a table, read when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass

import datasets

from mona_peft.finetuning.data.images import StoredImage


@dataclass(frozen=True)
class HubImage:
    """A stored image in a table.

    Args:
        rows (`datasets.Dataset`): The table, its images undecoded.
        column (`str`): Of the image.
        row (`int`): Of the image.
    """

    rows: datasets.Dataset
    column: str
    row: int

    def __call__(self) -> StoredImage:
        """Its path and bytes."""
        return self.rows[self.row][self.column]

    def __str__(self) -> str:
        return f"{self.column} of row {self.row}"


def stored_images(rows: datasets.Dataset, column: str) -> list[HubImage]:
    """The images of a column."""
    stored = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    return [HubImage(stored, column, row) for row in range(len(stored))]
