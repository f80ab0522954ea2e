"""Images to predict, each opened when its turn comes, and names for the pictures of what is found in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image

from mona_peft.finetuning.data.images import UnreadableImage

LABEL_MAP = "_labels"
LONGEST = 150  # characters of a name; with its suffix it must fit a file system

Result = TypeVar("Result")


@dataclass(frozen=True)
class Item:
    """An image to predict: its name, how to open it, and its true label where that is known."""

    name: str
    open: Callable[[], Image.Image]
    label: str | None = None

    def read(self, use: Callable[[Image.Image], Result]) -> Result | UnreadableImage:
        """What `use` makes of the open image, which is let go; or why it could not be opened."""
        try:
            image = self.open()
        except UnreadableImage as error:
            return error
        return use(image)


def picture_names(names: Sequence[str]) -> list[str]:
    """A file name without suffix for each image, all different (on systems that ignore case, too).

    It is the whole path in one name; where that is taken (`a.jpg` and `a.png`, `a/b.jpg` and `a_b.jpg`), a number
    follows. Label maps add `_labels` to it, which counts as taken.

    Args:
        names (`Sequence[str]`): Of all images, whichever process predicts them.
    """
    taken: set[str] = set()
    chosen = []
    for name in names:
        path = Path(name)
        parts = [part for part in path.with_suffix("").parts if part not in (path.anchor, "..", ".")]
        wanted = "_".join(parts)[-LONGEST:]
        candidate, number = wanted, 1
        while {candidate.casefold(), (candidate + LABEL_MAP).casefold()} & taken:
            number += 1
            candidate = f"{wanted}_{number}"
        taken |= {candidate.casefold(), (candidate + LABEL_MAP).casefold()}
        chosen.append(candidate)
    return chosen


def refuse_overwriting(items: Sequence[Item], pictures: Sequence[str], folder: Path) -> None:
    """Refuse to write a picture over an image that is read.

    Args:
        items (`Sequence[Item]`): The images.
        pictures (`Sequence[str]`): Names of their pictures, without suffix.
        folder (`Path`): Of the pictures.

    Raises:
        ValueError: If one would be.
    """
    read = {Path(item.name).resolve() for item in items}
    for picture in pictures:
        for target in (folder / f"{picture}.png", folder / f"{picture}{LABEL_MAP}.png"):
            if target.resolve() in read:
                raise ValueError(f"--draw_dir {folder} would write over the image {target}; name another folder.")
