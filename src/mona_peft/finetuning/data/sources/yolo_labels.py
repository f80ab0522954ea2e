"""The text files of YOLO's layout: a line an object, its class and its box or outline as shares of the picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mona_peft.finetuning.data.dense.boxes import are_finite, polygon_box, to_pixels
from mona_peft.finetuning.data.dense.masks import Annotation

#: Shares may leave the picture by so much: what rounding and resizing do.
ROUNDING = 0.005


def read_labels(path: Path, names: Sequence[str], named_by: Path, width: int, height: int) -> Iterator[Annotation]:
    """The objects of one picture.

    Args:
        path (`Path`): The text file.
        names (`Sequence[str]`): Classes by number.
        named_by (`Path`): What names the classes, for the message.
        width (`int`): Of the picture, pixels.
        height (`int`): Of the picture, pixels.

    Raises:
        ValueError: If a line cannot be; the message names file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error}).") from None
    for number, line in enumerate(lines, 1):
        if words := line.split():
            try:
                yield {"id": number, "iscrowd": 0, **_object(words, names, named_by, width, height)}
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None


def _object(words: list[str], names: Sequence[str], named_by: Path, width: int, height: int) -> Annotation:
    """One line as a COCO annotation.

    Raises:
        ValueError: If it cannot be.
    """
    try:
        label, shares = float(words[0]), [float(word) for word in words[1:]]
    except ValueError as error:
        raise ValueError(f"{' '.join(words)[:60]!r} holds what is no number ({error}).") from None
    if label not in range(len(names)):
        last = len(names) - 1
        raise ValueError(f"the class is {words[0]}; {named_by} names the classes 0 to {last}. Correct the line.")
    if len(shares) != 4 and (len(shares) < 6 or len(shares) % 2):
        raise ValueError(
            f"{len(words)} values; a box has 5 (class, centre x, centre y, width, height), an outline the class and "
            "three points or more."
        )
    far = 1 + ROUNDING
    if not are_finite(shares) or min(shares) < -ROUNDING or max(shares) > far:
        raise ValueError(
            f"{' '.join(words[1:])[:60]} lies outside the picture: all values are shares of its width and height, "
            "from 0 to 1. Correct the line."
        )
    if len(shares) == 4:
        return {"category_id": int(label), "bbox": to_pixels([shares], "yolo", width, height)[0]}
    points = [share * (height if position % 2 else width) for position, share in enumerate(shares)]
    return {"category_id": int(label), "bbox": polygon_box(points), "segmentation": [points]}
