"""Settings of the tasks: model, method and recipe. Free of torch: a command line is explained at once."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from mona_peft.finetuning.data.dense import HUE_DEGREES
from mona_peft.finetuning.data.sources.config import DataConfig, ObjectDataConfig, SegmentationDataConfig
from mona_peft.finetuning.methods import METHODS, check_method
from mona_peft.finetuning.models.names import CLASSIFICATION, DETECTORS, INSTANCE_SEGMENTERS, SEGMENTERS
from mona_peft.finetuning.settings import Settings, check_names, check_values, option, read_options

EVALUATIONS = ("whole", "slide")
#: The metric that selects the best weights (of boxes), by protocol. The one of VOC2007 is the mean at 11 recalls, as
#: mmdetection gives it for VOC; of VOC2010 and later the area. Both are always given.
PROTOCOLS = {"coco": "box_ap", "voc": "ap50", "voc07": "ap50_11point"}
SIDES = ("short_side", "long_side", "crop_side")


@dataclass
class ModelConfig(Settings):
    """Model and method, as every task has them."""

    model: str = option(
        "microsoft/swin-tiny-patch4-window7-224",
        "Pretrained model: Hub id or folder; or a timm name (vit_tiny_patch16_224) or torchvision/swin_t.",
    )
    image_size: int | None = option(
        None, "Side of the images, pixels; what the model was pretrained with (or the recipe says) if unset.", least=1
    )
    method: str = option("mona", f"Fine-tuning method: {', '.join(METHODS)}.")
    method_options: dict[str, Any] = option(
        {}, 'Settings of the method, as JSON (or a mapping, in a recipe): {"r": 16}.'
    )
    drop_path: float | None = option(
        None,
        "Stochastic depth rate of the last block; 0.2 to 0.3 in the paper, the model's own if unset.",
        least=0,
        below=1,
    )
    by_method: dict[str, Any] = option(
        {},
        'What a method has of its own, as JSON or in a recipe: {"full": {"learning_rate": 6e-5, "drop_path": 0.3}}.',
    )

    def __post_init__(self) -> None:
        """Check what can be checked without data or model."""
        super().__post_init__()
        check_method(self.method, self.method_options)
        self.by_method = {name: read_section(name, section) for name, section in self.by_method.items()}


@dataclass
class MethodSection(Settings):
    """What a recipe has for one method alone."""

    options: dict[str, Any] = option({}, "Settings of the method.")
    learning_rate: float | None = option(None, "Its learning rate, in place of the recipe's.", above=0)
    drop_path: float | None = option(None, "Its drop path, in place of the recipe's.", least=0, below=1)


def read_section(method: str, section: object) -> dict[str, Any]:
    """Check what a recipe has for one method.

    Args:
        method (`str`): A key of `METHODS`.
        section (`object`): What stands under its name in `by_method`.

    Returns:
        `dict[str, Any]`: The fields of `MethodSection`.

    Raises:
        ValueError: If there is no such method, or no such setting, or a value does not fit.
    """
    owner = f"The section of {method!r} in by_method"
    given = read_options(owner, section)
    check_names(owner, given, [entry.name for entry in fields(MethodSection)])
    try:
        settings = MethodSection(**check_values(MethodSection, given, words=True))
    except ValueError as error:
        raise ValueError(f"{owner}: {error}") from None
    check_method(method, settings.options)
    return asdict(settings)


@dataclass
class ClassificationConfig(ModelConfig):
    """Model, method and recipe of an image classification run."""

    refused = {
        "repeat_threshold": "it counts the classes inside each image. Use --balanced_sampling, which draws every "
        "class as often."
    }

    label_smoothing: float = option(
        0.0, "Share of the target spread over all classes; 0 in the paper, 0.1 for many classes.", least=0, most=1
    )
    mixup: float = option(
        0.0,
        "Alpha of mixup; 0 (recommended for few images) for none. With cutmix too, each batch gets one of them.",
        least=0,
    )
    cutmix: float = option(0.0, "Alpha of cutmix; 0 (recommended for few images) for none.", least=0)
    balanced_sampling: bool = option(False, "Draw training images so that every class comes as often, for long tails.")
    class_weights: bool = option(False, "Weight the loss so that every class counts as much, for long tails.")
    crop_scale: list[float] = option(
        [0.08, 1.0],
        "Least and greatest share of the area kept by the random crop; 0.5 1 for what fills the image.",
        above=0,
        most=1,
    )
    horizontal_flip: float = option(
        0.5, "Probability of mirroring a training image; 0 where left and right mean something.", least=0, most=1
    )
    resize_ratio: float = option(256 / 224, "Resized short side over crop side of test images.", least=1)
    interpolation: str = option(
        "bicubic",
        "How images are resized: bicubic, as most models were pretrained, or bilinear, as in the paper.",
        choices=("bicubic", "bilinear"),
    )

    def __post_init__(self) -> None:
        """Check what can be checked without data or model."""
        super().__post_init__()
        if len(self.crop_scale) != 2 or self.crop_scale[0] > self.crop_scale[1]:
            raise ValueError(f"crop_scale is {self.crop_scale}; it must be two shares of the area, the lesser first.")
        if self.balanced_sampling and self.class_weights:
            raise ValueError(
                "balanced_sampling draws every class as often already, so that class_weights would favour the rare "
                "ones; leave one of them out."
            )


@dataclass
class DenseConfig(ModelConfig):
    """Model, method and images, as every dense task has them."""

    refused = {
        "balanced_sampling": "an image holds several classes, so no draw of images sees every class as often. Use "
        "--repeat_threshold, which repeats images with rare classes."
    }

    architecture: str = option("", "Neck and heads.")
    architecture_options: dict[str, Any] = option(
        {}, "Settings of the architecture, as JSON (or a mapping, in a recipe)."
    )
    out_indices: list[int] = option(
        [], "Stages of the backbone to use, from 1; the architecture's usual ones if unset.", least=1
    )
    freeze_patch_embedding: bool = option(
        False, "Train nothing of the patch embedding, whatever the method trains, as in the paper's VOC runs."
    )
    gradient_checkpointing: bool = option(
        False, "Recompute the backbone in the backward pass, for less memory; if a batch does not fit."
    )
    repeat_threshold: float | None = option(
        None,
        "Repeat training images with classes that are in a smaller share of the images, for long tails; 0.001 in "
        "LVIS, more for small sets.",
        above=0,
        most=1,
    )
    short_side: int = option(
        800, "Shorter side of test images, pixels, unless the longer one exceeds long_side.", least=1
    )
    long_side: int = option(1333, "Most pixels of the longer side.", least=1)
    horizontal_flip: float = option(
        0.5, "Probability of mirroring a training image; 0 where left and right mean something.", least=0, most=1
    )

    def __post_init__(self) -> None:
        """Check what can be checked without data or model."""
        super().__post_init__()
        self._set_sides()
        from mona_peft.finetuning.models.architectures import check_architecture

        check_architecture(self.architecture, self.architecture_options)

    @property
    def metric(self) -> str:
        """The metric that selects the best weights."""
        raise TypeError(f"{type(self).__name__} does not say which metric selects the best weights.")

    def _set_sides(self) -> None:
        """Let `image_size` decide the sides, each in the proportion that it has by default.

        Raises:
            ValueError: If a side was given as well.
        """
        if self.image_size is None:
            return
        usual: dict[str, Any] = {entry.name: entry.default for entry in fields(self) if entry.name in SIDES}
        for name, side in usual.items():
            wanted = round(side * self.image_size / usual["short_side"])
            if getattr(self, name) not in (side, wanted):
                raise ValueError(f"image_size {self.image_size} decides {name}; leave one of them out.")
            setattr(self, name, wanted)


@dataclass
class ObjectConfig(DenseConfig):
    """Settings of detection and instance segmentation."""

    refused = {
        **DenseConfig.refused,
        "class_weights": "the losses of these architectures weigh objects against the background, and have no weights "
        "by class. Use --repeat_threshold, which repeats images with rare classes.",
    }

    train_short_sides: list[int] = option(
        [], "Shorter sides of training images, one drawn for each; short_side if unset.", least=1
    )
    crop: list[int] = option(
        [], "Least and greatest side of a training crop taken before resizing; no crop if unset.", least=1
    )
    crop_share: float = option(0.5, "Share of training images that are cropped.", least=0, most=1)
    crop_short_sides: list[int] = option(
        [], "Shorter sides to one of which an image is resized before it is cropped; not resized if unset.", least=1
    )
    skip_empty_images: bool = option(False, "Leave out training images without an object to train on.")
    protocol: str = option(
        "coco",
        "How average precision is computed: coco; voc: at IoU 0.5, the area under the curve; voc07: the mean at 11 "
        "recalls, as in the paper.",
        choices=tuple(PROTOCOLS),
    )

    def __post_init__(self) -> None:
        """Check what can be checked without data or model."""
        super().__post_init__()
        if self.crop and (len(self.crop) != 2 or not 0 < self.crop[0] <= self.crop[1]):
            raise ValueError(f"crop is {self.crop}; give the least and the greatest side, such as --crop 384 600.")
        if self.crop_short_sides and not self.crop:
            raise ValueError(f"crop_short_sides is {self.crop_short_sides}, but there is no crop; give crop as well.")

    @property
    def metric(self) -> str:
        """The metric that selects the best weights: the protocol's own."""
        return PROTOCOLS[self.protocol]


@dataclass
class DetectionConfig(ObjectConfig):
    """Settings of an object detection run."""

    architecture: str = option("retinanet", f"One of {', '.join(DETECTORS)}.", choices=DETECTORS)


@dataclass
class InstanceSegmentationConfig(ObjectConfig):
    """Settings of an instance segmentation run."""

    architecture: str = option(
        "cascade_mask_rcnn", f"One of {', '.join(INSTANCE_SEGMENTERS)}.", choices=INSTANCE_SEGMENTERS
    )

    def __post_init__(self) -> None:
        """Check that masks can be measured."""
        super().__post_init__()
        if self.protocol != "coco":
            raise ValueError(f"protocol is {self.protocol!r}, but masks are measured by COCO's protocol alone.")

    @property
    def metric(self) -> str:
        """The metric that selects the best weights."""
        return "mask_ap"


@dataclass
class SemanticSegmentationConfig(DenseConfig):
    """Settings of a semantic segmentation run."""

    architecture: str = option("upernet", f"One of {', '.join(SEGMENTERS)}.", choices=SEGMENTERS)
    short_side: int = option(
        512, "Shorter side of test images, pixels, unless the longer one exceeds long_side.", least=1
    )
    long_side: int = option(2048, "Most pixels of the longer side.", least=1)
    crop_side: int = option(
        512, "Side of the square training crop, and of the windows of sliding evaluation.", least=1
    )
    scale: list[float] = option([0.5, 2.0], "Least and greatest factor by which training images are resized.", above=0)
    class_weights: bool = option(
        False, "Weight the loss so that the pixels of every class count as much, for long tails."
    )
    photometric: bool = option(True, "Vary brightness, contrast, saturation and hue of training images.")
    hue_degrees: float = option(
        HUE_DEGREES,
        "Most degrees by which the hue varies; mmsegmentation's 18 are steps of 2 degrees.",
        least=0,
        most=180,
    )
    evaluation: str = option(
        "whole", "whole: predict an image at once; slide: slide a window of crop_side over it.", choices=EVALUATIONS
    )
    stride: int | None = option(None, "Step of the sliding window, pixels; two thirds of crop_side if unset.", least=1)

    def __post_init__(self) -> None:
        """Check what can be checked without data or model."""
        super().__post_init__()
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is {self.scale}; give the least and the greatest factor, such as --scale 0.5 2.")

    @property
    def metric(self) -> str:
        """The metric that selects the best weights."""
        return "mean_iou"

    @property
    def windows(self) -> list[int] | None:
        """Side and step of the sliding windows, where an evaluation has them."""
        return [self.crop_side, self.stride or self.crop_side * 2 // 3] if self.evaluation == "slide" else None


#: By task: the settings of its data and of itself.
TASK_SETTINGS: dict[str, tuple[type, type]] = {
    CLASSIFICATION: (DataConfig, ClassificationConfig),
    "semantic_segmentation": (SegmentationDataConfig, SemanticSegmentationConfig),
    "detection": (ObjectDataConfig, DetectionConfig),
    "instance_segmentation": (ObjectDataConfig, InstanceSegmentationConfig),
}
