"""Scanned digits: a small Swin pretrained on 0 to 4 is adapted to 5 to 9 from a few labelled scans."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from transformers import SwinConfig, SwinForImageClassification

from mona_peft.finetuning.data.classification.dataset import ClassificationData
from mona_peft.finetuning.data.embedded.digits import load_adaptation_digits, load_pretraining_digits
from mona_peft.finetuning.models.backbones import label_maps
from mona_peft.finetuning.study.variants import Variant
from mona_peft.finetuning.tasks.classification import ClassificationConfig, ClassificationTask
from mona_peft.finetuning.training import TrainingConfig

from .pretraining import pretrain
from .testbed import Testbed

IMAGE_SIZE = 32

# A scan is cropped tightly as it is.
CROP_SCALE = [0.7, 1.0]

# The paper's sizes for Swin-L divided by 4; the small Swin's first stage has a sixth of Swin-L's channels.
DIGITS_OPTIONS: dict[str, dict[str, Any]] = {
    "bottleneck": {"bottleneck_dim": 16},
    "lora": {"r": 16},
    "adaptformer": {"bottleneck_dim": 16},
    "lorand": {"lorand_beta": 2},
    "mona": {"bottleneck_dim": 16},
    "convpass": {"bottleneck_dim": 2},
    "sct": {"num_channels": 24},
}

# Width of the small Swin's first stage, by the size of the backbone.
SWIN_WIDTHS = {"small": 16, "base": 32, "large": 48}
DEFAULT_SWIN = "base"


@dataclass(frozen=True)
class DigitsSize:
    """How much is done on the digits.

    Args:
        pretraining_epochs (`int`): Over the scans of 0 to 4.
        epochs (`int`): Over the few scans of 5 to 9.
        shots (`int`): Labelled scans a class.
        seeds (`int`): Runs of each variant at its chosen rate.
        learning_rates (`tuple[float, ...]`): The grid of every method.
    """

    pretraining_epochs: int
    epochs: int
    shots: int
    seeds: int
    learning_rates: tuple[float, ...]


# The grid spans what full fine-tuning wants and what methods with few parameters want, a hundred times apart.
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
STUDY_SIZES = {
    "full": DigitsSize(pretraining_epochs=12, epochs=40, shots=8, seeds=5, learning_rates=RATES),
    "tiny": DigitsSize(pretraining_epochs=1, epochs=2, shots=2, seeds=2, learning_rates=(1e-3, 1e-2)),
}
DEMO_SIZES = {
    "full": DigitsSize(pretraining_epochs=12, epochs=30, shots=8, seeds=3, learning_rates=RATES),
    "tiny": DigitsSize(pretraining_epochs=2, epochs=4, shots=4, seeds=2, learning_rates=(3e-3,)),
}


def small_swin(class_names: tuple[str, ...], embed_dim: int = SWIN_WIDTHS[DEFAULT_SWIN]) -> SwinForImageClassification:
    """A Swin of two stages of two blocks for 32x32 images, an 8x8 grid of 4x4 patches, with random weights."""
    config = SwinConfig(
        image_size=IMAGE_SIZE,
        patch_size=4,
        embed_dim=embed_dim,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
        drop_path_rate=0.0,
        initializer_range=0.2,  # the usual 0.02 is for widths of hundreds: here signals would fade
        **label_maps(class_names),
    )
    return SwinForImageClassification(config)


def as_data(name: str, splits: DatasetDict) -> ClassificationData:
    """Splits of scans as the data of a task."""
    return ClassificationData(name, splits, tuple(splits["train"].features["label"].names))


def adaptation_task(
    model: str, seed: int, shots: int, method: str, options: dict[str, object] | None = None
) -> ClassificationTask:
    """Adapting a pretrained model to 5 to 9. A mirrored digit is another sign, so nothing is mirrored.

    Args:
        model (`str`): Folder of the model.
        seed (`int`): Draws the labelled scans.
        shots (`int`): Labelled scans a class.
        method (`str`): A name in `mona_peft.finetuning.methods`.
        options (`dict`, *optional*): Its settings.
    """
    config = ClassificationConfig(
        model=model,
        method=method,
        method_options=options or {},
        crop_scale=CROP_SCALE,
        horizontal_flip=0.0,
        resize_ratio=1.0,
    )
    return ClassificationTask(as_data("digits-5-9", load_adaptation_digits(shots=shots, seed=seed)), config)


def pretrain_swin(folder: Path, epochs: int, width: int = SWIN_WIDTHS[DEFAULT_SWIN]) -> Path:
    """Train the small Swin on 0 to 4 and give back the folder with the model.

    Args:
        folder (`Path`): Of the run.
        epochs (`int`): Over the scans.
        width (`int`): Channels of the first stage.
    """
    training = TrainingConfig(
        output_dir=str(folder),
        overwrite_output_dir=True,
        num_epochs=epochs,
        batch_size=32,
        learning_rate=2e-3,
        warmup_epochs=min(1, epochs / 2),
        no_checkpoints=True,
        report_to=["none"],
    )
    data = as_data("digits-0-4", load_pretraining_digits())
    return pretrain("a small Swin", data, partial(small_swin, embed_dim=width), training, crop_scale=CROP_SCALE)


class DigitsTestbed(Testbed):
    """Adaptation of a small Swin to scanned digits it has not seen.

    Args:
        size (`DigitsSize`): Shots and epochs.
    """

    title = "scanned digits 5 to 9, small Swin pretrained on 0 to 4"

    def __init__(self, size: DigitsSize) -> None:
        self.size = size
        self.seeds = size.seeds
        self.learning_rates = size.learning_rates

    def describe(self) -> dict[str, object]:
        """Everything of the size but what a plan decides."""
        size = {name: value for name, value in asdict(self.size).items() if name not in ("seeds", "learning_rates")}
        return {"benchmark": "digits", **size}

    def sizes(self) -> str:
        """How many scans there are."""
        return f"{self.size.shots} labelled scans a class, {len(load_adaptation_digits()['test'])} held-out scans"

    def prepare(self, variants: list[Variant], folder: Path) -> None:
        """Pretrain each backbone that the variants need, once."""
        for backbone in dict.fromkeys(variant.backbone or DEFAULT_SWIN for variant in variants):
            pretrain_swin(folder / backbone, self.size.pretraining_epochs, SWIN_WIDTHS[backbone])

    def task(self, variant: Variant, seed: int, folder: Path) -> ClassificationTask:
        """The task with the variant's method; the seed draws the labelled scans."""
        model = (folder / (variant.backbone or DEFAULT_SWIN) / "model").resolve()
        return adaptation_task(str(model), seed, self.size.shots, variant.method, variant.options)

    def training(self, learning_rate: float, seed: int) -> TrainingConfig:
        """Settings of one run's loop, without a folder."""
        return TrainingConfig(
            num_epochs=self.size.epochs,
            batch_size=min(20, 5 * self.size.shots),
            eval_batch_size=100,
            learning_rate=learning_rate,
            warmup_epochs=self.size.epochs / 10,
            eval_epochs=max(1, self.size.epochs // 8),
            logging_steps=2,
            seed=seed,
            no_checkpoints=True,
            report_to=["none"],
            progress_bar=False,
        )
