"""Settings of `mona-peft data check`. Free of heavy imports: a command line is explained at once."""

from __future__ import annotations

from dataclasses import dataclass

from mona_peft.finetuning.data.sources.config import BOX_FORMAT_NAMES, EXIF_HELP
from mona_peft.finetuning.settings import Settings, option

TASKS = ("classification", "segmentation", "detection")


@dataclass
class CheckConfig(Settings):
    """What to look at."""

    task: str | None = option(
        None, "What the data is for: classification, segmentation or detection; found if unset.", choices=TASKS
    )
    page: str | None = option(None, "HTML file of counts, findings and pictures; in outputs/ if unset.")
    samples: int = option(12, "Pictures of each split on the page.", least=0)
    class_names: list[str] = option([], "Names of the classes, where the data has none.")
    image_column: str | None = option(None, "Column of the images; found if unset.")
    label_column: str | None = option(None, "Column of the labels or objects; found if unset.")
    box_format: str | None = option(None, "Format of boxes in tables; found if unset.", choices=BOX_FORMAT_NAMES)
    exif_frame: str | None = option(None, EXIF_HELP)
    reduce_zero_label: bool = option(False, "0 in label maps means no class, 1 the first class.")
    seed: int = option(0, "Draws the pictures.")
