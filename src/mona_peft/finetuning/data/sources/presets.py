"""The paper's classification data sets: what is official about each, and where it can come from."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .archives import read_flowers102, read_oxford_pets, read_voc2007
from .sizes import OFFICIAL_SIZES


@dataclass(frozen=True)
class Preset:
    """A data set known by name.

    Args:
        name (`str`): Given as `--dataset`.
        read_archive (`Callable`): Reads the official layout from a folder.
        sizes (`Mapping[str, int]`): Images of each official split.
        hub_id (`str`, *optional*): A copy on the Hub in plain files.
        torchvision_folder (`str`): Where torchvision's downloader puts the official layout.
        multilabel (`bool`): Whether it can be used with several labels an image.
        citation (`str`): What to cite.
    """

    name: str
    read_archive: Callable[..., Any]
    sizes: Mapping[str, int]
    hub_id: str | None
    torchvision_folder: str
    multilabel: bool = False
    citation: str = ""


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            "flowers102",
            read_flowers102,
            OFFICIAL_SIZES["flowers102"],
            "dpdl-benchmark/oxford_flowers102",
            "flowers-102",
            citation="Nilsback and Zisserman, ICVGIP 2008",
        ),
        Preset(
            "oxford_pets",
            read_oxford_pets,
            OFFICIAL_SIZES["oxford_pets"],
            "timm/oxford-iiit-pet",
            "oxford-iiit-pet",
            citation="Parkhi et al., CVPR 2012",
        ),
        Preset(
            "voc2007",
            read_voc2007,
            OFFICIAL_SIZES["voc2007"],
            None,
            "",
            multilabel=True,
            citation="Everingham et al., IJCV 2010",
        ),
    )
}


def check_sizes(preset: Preset, sizes: Mapping[str, int]) -> None:
    """Compare split sizes with the official ones.

    Raises:
        ValueError: If all images are there but differently split.
    """
    if dict(sizes) == dict(preset.sizes):
        return
    message = f"{preset.name} has splits of {dict(sizes)} images, the official ones are {dict(preset.sizes)}"
    if sum(sizes.values()) == sum(preset.sizes.values()):
        raise ValueError(f"{message}; name them with train_split, validation_split and test_split.")
    warnings.warn(f"{message}: this is not the full set.", stacklevel=2)


def download(preset: Preset, root: Path) -> Path:
    """Have torchvision download the official archives, and give back the folder in the official layout."""
    from torchvision import datasets as vision

    if preset.name == "flowers102":
        vision.Flowers102(str(root), download=True)
    elif preset.name == "oxford_pets":
        vision.OxfordIIITPet(str(root), download=True)
    else:
        for image_set in ("trainval", "test"):
            vision.VOCDetection(str(root), year="2007", image_set=image_set, download=True)
    return root / preset.torchvision_folder
