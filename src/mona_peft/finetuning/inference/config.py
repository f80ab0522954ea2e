"""Settings of a prediction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mona_peft.finetuning.settings import Settings, option

OUTPUT_SUFFIXES = (".json", ".parquet", ".csv")


@dataclass
class PredictionConfig(Settings):
    """What to predict with, and on what."""

    model: str = option("", "Trained repository: a folder, or user/name on the Hub.")
    images: list[str] = option([], "Image files, and folders of them (searched through).")
    split: str = option("test", "Split of the dataset, where one is given instead of images.")
    seed: int | None = option(
        None,
        "Of the training run, which drew the images held out by validation_fraction, and shots; if unset, that in "
        "run.json beside the model's folder, or 0.",
        least=0,
        below=2**32,
    )
    base_model: str | None = option(None, "Take the base model from here instead of where it was.")
    batch_size: int = option(16, "Images a process and forward pass.", least=1)
    top_k: int = option(5, "Labels an image.", least=1)
    output: str | None = option(None, f"File to write the results to: {', '.join(OUTPUT_SUFFIXES)}.")
    draw_dir: str | None = option(None, "Folder for pictures of boxes, masks or label maps (dense models).")
    threshold: float = option(
        0.5, "Objects with a lower score are left out (dense models); 0.3 shows more.", least=0, most=1
    )
    cpu: bool = option(False, "Predict on the CPU even if there is an accelerator.")

    def __post_init__(self) -> None:
        """Check what can be checked without model and images."""
        super().__post_init__()
        if not self.model:
            raise ValueError("No model was given: --model FOLDER or --model user/name.")
        if self.output and Path(self.output).suffix not in OUTPUT_SUFFIXES:
            raise ValueError(f"Cannot write {self.output}: the name must end in one of {', '.join(OUTPUT_SUFFIXES)}.")
