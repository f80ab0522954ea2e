"""PASCAL VOC's files: image sets and annotations, for classification and detection.

`VOCdevkit/VOC2007/{JPEGImages,Annotations,ImageSets/Main}`.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from mona_peft.finetuning.data.folders import DataFolder

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


@dataclass(frozen=True)
class VocObject:
    """An annotated object.

    Args:
        name (`str`): Its class.
        difficult (`bool`): Whether it is marked so.
        corners (`tuple[float, ...]`): xmin, ymin, xmax, ymax; pixels count from 1, and the far ones belong to it.
    """

    name: str
    difficult: bool
    corners: tuple[float, ...]

    @property
    def area(self) -> float:
        """Of its box, pixels."""
        x1, y1, x2, y2 = self.corners
        return (x2 - x1 + 1) * (y2 - y1 + 1)


@dataclass(frozen=True)
class VocAnnotation:
    """An annotation file.

    Args:
        path (`Path`): The file.
        tree (`Element`): Its content.
    """

    path: Path
    tree: ET.Element

    @classmethod
    def read(cls, path: Path) -> VocAnnotation:
        """Read an annotation file.

        Raises:
            FileNotFoundError: If it is missing.
            ValueError: If it is no XML.
        """
        if not path.exists():
            raise FileNotFoundError(f"There is no annotation {path}, which its image set lists.")
        try:
            return cls(path, ET.parse(path).getroot())
        except ET.ParseError as error:
            raise ValueError(f"The annotation {path} cannot be used: {error}") from error

    def text(self, name: str, element: ET.Element | None = None) -> str:
        """Text of a child, named by its path.

        Raises:
            ValueError: If there is none.
        """
        element = self.tree if element is None else element
        found = element.findtext(name)
        if not found:
            raise ValueError(f"The annotation {self.path} cannot be used: <{element.tag}> has no <{name}>.")
        return found.strip()

    def number(self, name: str, element: ET.Element | None = None) -> float:
        """The same as a finite number.

        Raises:
            ValueError: If it is none.
        """
        found = self.text(name, element)
        try:
            value = float(found)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"The annotation {self.path} cannot be used: <{name}> is {found!r}, which is no number.")
        return value

    def objects(self, known: tuple[str, ...]) -> list[VocObject]:
        """The annotated objects, of known classes.

        Raises:
            ValueError: If one has an unknown class or no box.
        """
        objects = []
        for element in self.tree.findall("object"):
            name = self.text("name", element)
            if name not in known:
                raise ValueError(
                    f"The annotation {self.path} cannot be used: it has an object of class {name!r}; known are "
                    f"{', '.join(known)}."
                )
            corners = tuple(self.number(f"bndbox/{edge}", element) for edge in ("xmin", "ymin", "xmax", "ymax"))
            objects.append(VocObject(name, (element.findtext("difficult") or "0").strip() == "1", corners))
        return objects


def devkit(folder: Path) -> Path:
    """The folder `VOCdevkit` in `folder`, or `folder` itself."""
    return folder / "VOCdevkit" if (folder / "VOCdevkit").is_dir() else folder


def read_image_set(folder: Path, image_set: str) -> list[tuple[str, VocAnnotation]]:
    """Names and annotations of the images of a set.

    Args:
        folder (`Path`): A year's, such as `VOCdevkit/VOC2007`.
        image_set (`str`): Such as `trainval`.

    Raises:
        FileNotFoundError: If the set or an annotation is missing.
        ValueError: If the set is no text, names a file outside the folder of the annotations, or one is no XML.
    """
    listing = folder / "ImageSets" / "Main" / f"{image_set}.txt"
    if not listing.exists():
        raise FileNotFoundError(f"There is no image set {listing}; unpack the VOC archives so that it is there.")
    if not listing.is_file():
        raise ValueError(f"The image set {listing} is no regular file; unpack the VOC archives again.")
    try:
        lines = [line.split() for line in listing.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"The image set {listing} is no UTF-8 text ({error}); unpack the archives again.") from None
    annotations = DataFolder(folder / "Annotations")
    return [(line[0], VocAnnotation.read(annotations.file(f"{line[0]}.xml", listing))) for line in lines if line]
