"""Which layout a folder is in: the first of a table that finds itself there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mona_peft.finetuning.environment import say


@dataclass(frozen=True)
class Layout:
    """One way in which folders hold a data set.

    Args:
        name (`str`): What it is called.
        shape (`str`): What is in such a folder.
        find (`Callable`): Finds its parts in a folder; nothing, where the folder is in another layout.
        load (`Callable`): Loads what was found, by the settings: `load(root, found, config, bad)`. Images that cannot
            be read go to the list `bad` and are left out; where it is `None`, they are refused.
        names_classes (`bool`): Whether its files say what the classes are called.
        has_columns (`bool`): Whether it is a table, of which the settings may name columns and the format of boxes.
        names_splits (`bool`): Whether `load` picks the splits that the settings name; if not, they are picked later.
    """

    name: str
    shape: str
    find: Callable[[Path], object]
    load: Callable[..., Any]
    names_classes: bool = True
    has_columns: bool = False
    names_splits: bool = False


def recognise(root: Path, layouts: Sequence[Layout]) -> tuple[Layout, Any] | None:
    """The layout of a folder and the parts found there; nothing if it is in none."""
    for layout in layouts:
        if found := layout.find(root):
            return layout, found
    return None


def shapes(layouts: Sequence[Layout]) -> str:
    """The layouts and what is in them, for a message."""
    return "; ".join(f"{layout.name} ({layout.shape})" for layout in layouts)


def say_read(name: str, layout: str, splits: Mapping[str, object], class_names: Sequence[str], what: str) -> None:
    """Say in one line in which layout a data set was read.

    Args:
        name (`str`): Of the data set.
        layout (`str`): Its layout.
        splits (`Mapping[str, object]`): Its splits.
        class_names (`Sequence[str]`): By label.
        what (`str`): What is counted in each split, such as images.
    """
    sizes = ", ".join(f"{len(rows)} {split}" for split, rows in splits.items() if hasattr(rows, "__len__"))
    shown = ", ".join(class_names[:5]) + (", ..." if len(class_names) > 5 else "")
    say(f"{name} is read as {layout}: {sizes} {what}, {len(class_names)} classes ({shown}).")
