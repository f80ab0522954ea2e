"""The models of the app: each loaded when it is first chosen, and run with its adapter and without."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from mona_peft.finetuning.inference.classification import LoadedClassifier
from mona_peft.finetuning.inference.dense import LoadedDense
from mona_peft.finetuning.inference.loading import load
from mona_peft.finetuning.inference.predictor import Loaded
from mona_peft.finetuning.pictures.heat import draw_heat, picture_of

from .contributions import Contribution, watching, without_adapters


@dataclass(frozen=True)
class Origin:
    """Where a model comes from.

    Args:
        repository (`str`): A folder, or `user/name` on the Hub.
        base_model (`str`, *optional*): Instead of the base model that the repository names.
    """

    repository: str
    base_model: str | None = None


@dataclass(frozen=True)
class Finding:
    """What a model finds in a picture.

    Args:
        scores (`dict[str, float]`, *optional*): Of the likeliest labels, best first; of a classifier.
        drawn (`PIL.Image.Image`, *optional*): The picture with boxes, masks or labels; of a dense model.
    """

    scores: dict[str, float] | None = None
    drawn: Image.Image | None = None


@dataclass(frozen=True)
class Look:
    """All that the app shows of a picture.

    Args:
        adapted (`Finding`): With the adapter.
        bare (`Finding`): With the adapter off, and the same trained head.
        maps (`list[tuple[PIL.Image.Image, str]]`): A heat map and its caption for each adapted block.
    """

    adapted: Finding
    bare: Finding
    maps: list[tuple[Image.Image, str]]


class AppModels:
    """Models by name, each loaded when it is first looked through; one picture runs at a time.

    Args:
        origins (`Mapping[str, Origin]`): By the name that the page shows.
        top_k (`int`): Labels shown of a picture.
        threshold (`float`): Objects with a lower score are left out.

    Raises:
        ValueError: If there is none.
    """

    def __init__(self, origins: Mapping[str, Origin], top_k: int = 5, threshold: float = 0.5) -> None:
        if not origins:
            raise ValueError("No model was given: mona-peft app FOLDER, or mona-peft app user/name.")
        self.origins, self.top_k, self.threshold = dict(origins), top_k, threshold
        self._loaded: dict[str, LoadedClassifier | LoadedDense] = {}
        self._running = threading.Lock()  # adapters are switched off in the model itself

    def get(self, name: str) -> LoadedClassifier | LoadedDense:
        """A model by name.

        Raises:
            ValueError: If there is none of that name, or it is no classifier, segmenter or detector.
        """
        if name not in self.origins:
            raise ValueError(f"There is no model {name!r}; the app has {', '.join(map(repr, self.origins))}.")
        if name not in self._loaded:
            origin = self.origins[name]
            loaded = load(origin.repository, base_model=origin.base_model)
            if not isinstance(loaded, LoadedClassifier | LoadedDense):
                raise ValueError(f"{origin.repository} is no classifier, segmenter or detector; name another.")
            self._loaded[name] = loaded
        return self._loaded[name]

    def look(self, name: str, image: Image.Image) -> Look:
        """Run a model on an image with its adapter and without, and draw what its blocks contribute."""
        with self._running:
            loaded = self.get(name)
            with torch.inference_mode():
                adapted, pixels, contributions = self._watch(loaded, image)
                with without_adapters(loaded.model):
                    bare = self._find(loaded, image)
        return Look(adapted, bare, draw_maps(loaded, pixels, contributions))

    def _watch(
        self, loaded: LoadedClassifier | LoadedDense, image: Image.Image
    ) -> tuple[Finding, Tensor, list[Contribution]]:
        """What is found, the pixels `(3, H, W)` that the model got, and what its blocks contributed."""
        bare = loaded.bare_model()
        specs = getattr(getattr(loaded.model, "active_peft_config", None), "block_specs", None)
        pixels: list[Tensor] = []

        def keep(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            pixels.append(kwargs["pixel_values"] if "pixel_values" in kwargs else args[0])

        handle = bare.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            with watching(bare, specs) as contributions:
                found = self._find(loaded, image)
        finally:
            handle.remove()
        return found, pixels[0][0], contributions

    def _find(self, loaded: LoadedClassifier | LoadedDense, image: Image.Image) -> Finding:
        if isinstance(loaded, LoadedDense):
            return Finding(drawn=loaded.draw(image, self.threshold))
        found = loaded.predict([image], self.top_k)[0]
        return Finding(scores={entry["label"]: entry["score"] for entry in found})


def draw_maps(loaded: Loaded, pixels: Tensor, contributions: list[Contribution]) -> list[tuple[Image.Image, str]]:
    """A heat map and its caption for each block, over the picture as the model got it."""
    normalised = getattr(loaded.processor, "do_normalize", False)
    names = ("image_mean", "image_std")
    mean, std = (getattr(loaded.processor, name, None) if normalised else None for name in names)
    picture = picture_of(pixels, mean, std)
    return [
        (
            draw_heat(picture, each.norms),
            f"{each.block}: {each.share:.1%} of the stream on average, at most {each.norms.max():.3g}",
        )
        for each in contributions
    ]


def name_models(repositories: list[str], base_model: str | None = None) -> dict[str, Origin]:
    """Short names for repositories, all different: as much of the end of each path as tells them apart.

    Raises:
        ValueError: If one is given twice.
    """
    paths = {
        each: Path(each).resolve().parts if Path(each).exists() else tuple(each.split("/")) for each in repositories
    }
    twice = [
        each for each in repositories if list(paths.values()).count(paths[each]) > 1 or repositories.count(each) > 1
    ]
    if twice:
        raise ValueError(f"{twice[0]} is given twice; name each model once.")
    names = {}
    for each, parts in paths.items():
        count = next(n for n in range(1, len(parts) + 1) if _ends(paths.values(), parts[-n:]) == 1 or n == len(parts))
        names["/".join(parts[-count:])] = Origin(each, base_model)
    return names


def _ends(paths: Iterable[tuple[str, ...]], end: tuple[str, ...]) -> int:
    return sum(path[-len(end) :] == end for path in paths)
