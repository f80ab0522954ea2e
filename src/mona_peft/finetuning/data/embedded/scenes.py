"""Scenes for dense prediction without a download: scanned digits over photographs, with exact boxes and masks.

A scene is composed on the fly from its number alone, so a data set of any length takes no disk. The digits are
scikit-learn's scans of 5 to 9; the photographs are scikit-learn's two and those that scikit-image ships. Scans and
photographs of the splits are disjoint. Scans of 0 to 4 appear nowhere here, so a backbone may be pretrained on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from mona_peft.finetuning.data.images import IGNORED

from .digits import ADAPT_DIGITS, SPLIT_SEED

SPLITS = ("train", "validation", "test")
SPLIT_SHARES = {"train": 0.5, "validation": 0.2, "test": 0.3}
#: By split, so that no photograph of the test scenes was seen in training.
PHOTOGRAPHS = {
    "train": ("sklearn/china.jpg", "skimage/astronaut.png", "skimage/coffee.png", "skimage/rocket.jpg"),
    "validation": ("skimage/chelsea.png",),
    "test": ("sklearn/flower.jpg", "skimage/motorcycle_left.png"),
}
CLASS_NAMES = tuple(str(digit) for digit in ADAPT_DIGITS)
#: Semantic classes; label 0 is the background.
SEMANTIC_NAMES = ("photograph", *CLASS_NAMES)
# Ink above this share of full ink belongs to the digit; between the two it belongs to neither side.
INK, RIM = 0.5, 0.2


@dataclass(frozen=True)
class SceneSettings:
    """What scenes look like.

    Args:
        size (`int`): Side of the square image, pixels.
        max_objects (`int`): Most digits a scene; their number is uniform from 1 to this.
        empty_share (`float`): Share of scenes without any digit.
        object_share (`tuple[float, float]`): Least and greatest side of a digit over the side of the image.
        max_overlap (`float`): Greatest share of a digit that later ones may hide.
        dark_ink_share (`float`): Share of digits in dark ink; the others are light.
        brightness (`float`): Factor of the photograph's values; below 1, light ink stands out.
    """

    size: int = 96
    max_objects: int = 4
    empty_share: float = 0.05
    object_share: tuple[float, float] = (0.25, 0.45)
    max_overlap: float = 0.3
    dark_ink_share: float = 0.5
    brightness: float = 1.0

    def __post_init__(self) -> None:
        low, high = self.object_share
        for name in ("empty_share", "max_overlap", "dark_ink_share", "brightness"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must be from 0 to 1.")
        if self.size < 16 or not 0 < low <= high <= 1 or self.max_objects < 1:
            raise ValueError(f"{self} describes no scene: size >= 16, 0 < object_share <= 1, max_objects >= 1.")


@dataclass(frozen=True)
class Scene:
    """One composed scene.

    Args:
        image (`np.ndarray`): `(H, W, 3)`, uint8.
        masks (`np.ndarray`): `(N, H, W)`, boolean: the visible part of each digit.
        boxes (`np.ndarray`): `(N, 4)`, tight x1, y1, x2, y2 in pixels, x2 and y2 exclusive.
        labels (`np.ndarray`): `(N,)`, indices into `CLASS_NAMES`.
        semantic (`np.ndarray`): `(H, W)`, uint8: indices into `SEMANTIC_NAMES`; 255 on the digits' blurred rims.
    """

    image: np.ndarray
    masks: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    semantic: np.ndarray


@cache
def load_scans(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Scans `(n, 8, 8)` in [0, 1] of one split and their labels `(n,)`."""
    from sklearn.datasets import load_digits

    scans = load_digits()
    rng = np.random.default_rng(SPLIT_SEED)
    images, labels = [], []
    for label, digit in enumerate(ADAPT_DIGITS):
        pool = rng.permutation(np.flatnonzero(scans.target == digit))
        ends = np.cumsum([round(SPLIT_SHARES[name] * len(pool)) for name in SPLITS[:-1]])
        rows = np.split(pool, ends)[SPLITS.index(split)]
        images.append(scans.images[rows] / 16.0)
        labels.append(np.full(len(rows), label))
    return np.concatenate(images), np.concatenate(labels)


@cache
def load_photographs(split: str) -> tuple[Image.Image, ...]:
    """The photographs behind the scenes of one split, RGB.

    Raises:
        FileNotFoundError: If an installed package lacks one.
    """
    import skimage.data
    import sklearn.datasets

    assert skimage.data.__file__ is not None and sklearn.datasets.__file__ is not None
    folders = {
        "sklearn": Path(sklearn.datasets.__file__).parent / "images",
        "skimage": Path(skimage.data.__file__).parent,
    }
    photographs = []
    for name in PHOTOGRAPHS[split]:
        package, _, file = name.partition("/")
        path = folders[package] / file
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; it comes with scikit-learn and scikit-image: reinstall them.")
        with Image.open(path) as image:
            photographs.append(image.convert("RGB"))
    return tuple(photographs)


def compose_scene(split: str, index: int, settings: SceneSettings = SceneSettings()) -> Scene:
    """Compose scene number `index` of a split; the same arguments give the same scene.

    Args:
        split (`str`): `train`, `validation` or `test`.
        index (`int`): Not negative.
        settings (`SceneSettings`): What scenes look like.

    Raises:
        ValueError: If there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"Scenes have no split {split!r}; choose one of {', '.join(SPLITS)}.")
    rng = np.random.default_rng([SPLIT_SEED, SPLITS.index(split), index])
    canvas = crop_photograph(split, rng, settings.size).astype(np.float64) * settings.brightness
    owner = np.full(canvas.shape[:2], -1)
    rim = np.zeros(canvas.shape[:2], dtype=bool)
    labels: list[int] = []
    count = 0 if rng.random() < settings.empty_share else int(rng.integers(1, settings.max_objects + 1))
    for _ in range(count):
        placed = _place(split, rng, settings, owner)
        if placed is None:
            continue
        label, ink, colour = placed
        canvas += ink[..., None] * (colour - canvas)
        owner[ink > INK] = len(labels)
        rim = np.where(ink > INK, False, rim | (ink > RIM))
        labels.append(label)
    return _finish(canvas, owner, rim, np.array(labels, dtype=np.int64))


@dataclass(frozen=True)
class SceneImage:
    """A picture of a scene, composed when it is asked for.

    Args:
        split (`str`): `train`, `validation` or `test`.
        index (`int`): Number of the scene.
        settings (`SceneSettings`): What scenes look like.
        part (`str`): `image`, or `semantic` for its label map.
    """

    split: str
    index: int
    settings: SceneSettings
    part: str = "image"

    def __call__(self) -> Image.Image:
        """Compose it."""
        return Image.fromarray(getattr(compose_scene(self.split, self.index, self.settings), self.part))


def crop_photograph(split: str, rng: np.random.Generator, size: int) -> np.ndarray:
    """A random square of a photograph of the split, from a third to the whole of its shorter side.

    Args:
        split (`str`): A key of `PHOTOGRAPHS`.
        rng (`np.random.Generator`): Draws photograph, square and mirroring.
        size (`int`): Side of what is returned, `(size, size, 3)`, uint8.
    """
    photographs = load_photographs(split)
    photograph = photographs[rng.integers(len(photographs))]
    width, height = photograph.size
    side = int(rng.uniform(1 / 3, 1) * min(width, height))
    left, top = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
    box = (left, top, left + side, top + side)
    crop = np.asarray(photograph.resize((size, size), Image.Resampling.BILINEAR, box=box))
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def _place(
    split: str, rng: np.random.Generator, settings: SceneSettings, owner: np.ndarray
) -> tuple[int, np.ndarray, np.ndarray] | None:
    """Draw a digit and a place for it: label, ink `(H, W)` in [0, 1], colour. `None` if it would hide too much."""
    scans, scan_labels = load_scans(split)
    row = int(rng.integers(len(scans)))
    side = round(rng.uniform(*settings.object_share) * settings.size)
    scan = Image.fromarray(scans[row].astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    left, top = (int(value) for value in rng.integers(settings.size - side + 1, size=2))
    ink = np.zeros(owner.shape)
    ink[top : top + side, left : left + side] = np.clip(np.asarray(scan), 0, 1)
    dark = rng.random() < settings.dark_ink_share
    colour = rng.uniform(0, 60, 3) if dark else rng.uniform(195, 255, 3)
    cover = ink > INK
    if hides_too_much(owner, cover, settings.max_overlap) or not cover.any():
        return None
    return int(scan_labels[row]), ink, colour


def hides_too_much(owner: np.ndarray, cover: np.ndarray, most: float) -> bool:
    """Whether what covers pixels would hide more than a share of an object below.

    Args:
        owner (`np.ndarray`): `(H, W)`, the number of the object that each pixel shows, -1 for none.
        cover (`np.ndarray`): `(H, W)`, boolean.
        most (`float`): The share.
    """
    count = int(owner.max()) + 1
    visible = np.bincount(owner[owner >= 0], minlength=count)
    hidden = np.bincount(owner[(owner >= 0) & cover], minlength=count)
    return bool((hidden > most * visible).any())


def read_objects(owner: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks `(count, H, W)` and boxes `(count, 4)` of the objects, off the map of who owns which pixel."""
    masks = owner[None] == np.arange(count)[:, None, None]
    boxes = np.zeros((count, 4))
    for number, mask in enumerate(masks):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes[number] = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    return masks, boxes


def _finish(canvas: np.ndarray, owner: np.ndarray, rim: np.ndarray, labels: np.ndarray) -> Scene:
    masks, boxes = read_objects(owner, len(labels))
    semantic = np.zeros(owner.shape, np.uint8)
    semantic[owner >= 0] = labels[owner[owner >= 0]] + 1
    semantic[rim & (owner < 0)] = IGNORED
    return Scene(np.rint(canvas).astype(np.uint8), masks, boxes, labels, semantic)
