"""Which heights and widths a graph takes, and photographs of those as a model takes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mona_peft.finetuning.data.dense.transforms import PAD_TO, DenseSettings, eval_pixels, pad_batch, round_up
from mona_peft.finetuning.data.images import to_rgb
from mona_peft.finetuning.inference.classification import LoadedClassifier
from mona_peft.finetuning.inference.predictor import Loaded
from mona_peft.finetuning.models.outputs import pixel_mask
from mona_peft.finetuning.models.positions import least_for_windows

from .kinds import MASK, PIXELS, Kind
from .pictures import photographs

LEAST = 2  # multiples; a side of one could become a map of one, which broadcasts where others do not


@dataclass(frozen=True)
class Frame:
    """Heights and widths that a graph takes.

    Args:
        height (`int`): Of the pictures it is checked with first; without `multiple` it takes no other.
        width (`int`): The same.
        multiple (`int`): Where height and width are dynamic, they are multiples of it, `LEAST` or more; else 0.
    """

    height: int
    width: int
    multiple: int = 0

    @property
    def traced(self) -> tuple[int, int]:
        """Size to trace at: where sizes are dynamic, no side is the other one, or what the model was trained with."""
        return self.height + self.multiple, self.width + 2 * self.multiple

    @property
    def checked(self) -> list[tuple[int, int]]:
        """Sizes to compare at."""
        others = [(self.height + 2 * self.multiple, self.width + self.multiple)] if self.multiple else []
        return [(self.height, self.width), *others]

    def facts(self) -> dict[str, int]:
        """As the file says it."""
        if self.multiple:
            return {"multiple": self.multiple, "least": LEAST * self.multiple}
        return {"height": self.height, "width": self.width}


def find_frame(loaded: Loaded, dynamic: bool, image_size: int | None) -> Frame:
    """The frame of a graph.

    Args:
        loaded (`Loaded`): The model.
        dynamic (`bool`): Whether height and width are to be dynamic.
        image_size (`int`, *optional*): Side of the square that pictures of a segmenter or detector are padded to; the
            longest side of test pictures if left out.

    Raises:
        ValueError: If a classifier, whose image processor has the size, is given another, or there is no such square.
    """
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size={image_size} must be at least 1: the side of a square in pixels.")
    multiple = size_multiple(loaded)
    if isinstance(loaded, LoadedClassifier):
        if image_size is not None:
            raise ValueError(
                f"image_size={image_size}: pictures of a classifier are as large as its image processor makes them; "
                "leave it out."
            )
        height, width = loaded.prepare(photographs()[0]).shape[-2:]
    else:
        settings = DenseSettings.from_processor(loaded.processor)
        height = width = round_up(image_size or (settings.short_side if dynamic else settings.long_side), PAD_TO)
    if not dynamic:
        return Frame(height, width)
    height, width = (max(round_up(side, multiple), LEAST * multiple) for side in (height, width))
    return Frame(height, width, multiple)


def size_multiple(loaded: Loaded) -> int:
    """Pixels between sizes at which every stage of a model has whole patches and, of Swin's kind, whole windows."""
    bare = loaded.bare_model()
    bare = getattr(bare, "timm_model", bare)
    config = getattr(bare, "config", None)
    config = getattr(config, "backbone_config", None) or config
    patch = getattr(config, "patch_size", None) or getattr(getattr(bare, "patch_embed", None), "patch_size", None)
    patch = max(patch) if isinstance(patch, list | tuple) else patch
    whole_patches = patch if isinstance(patch, int) and not getattr(config, "depths", None) else PAD_TO
    multiple = least_for_windows(config) or whole_patches
    return multiple if isinstance(loaded, LoadedClassifier) else math.lcm(multiple, PAD_TO)


def prepare_photographs(loaded: Loaded, kind: Kind, frame: Frame) -> dict[str, Tensor]:
    """The photographs as one batch of the frame, prepared as the model was trained.

    Raises:
        ValueError: If the model has no image processor.
    """
    if isinstance(loaded, LoadedClassifier):
        pixels = torch.cat([loaded.prepare(image) for image in photographs()])
        return resize({PIXELS: loaded.to_model(pixels)}, (frame.height, frame.width))
    settings = fitting(DenseSettings.from_processor(loaded.processor), frame)
    pictures = [eval_pixels(to_rgb(image), settings) for image in photographs()]
    sizes = torch.tensor([picture.shape[-2:] for picture in pictures])
    corner = pictures[0].new_zeros(3, frame.height, frame.width)
    pixels = loaded.to_model(pad_batch([*pictures, corner], 1)[0][:-1])
    return {PIXELS: pixels, **({MASK: pixel_mask(pixels, sizes.to(pixels.device))} if kind.masked else {})}


def fitting(settings: DenseSettings, frame: Frame) -> DenseSettings:
    """Settings whose pictures fit into the frame, whichever side of theirs is the longer."""
    side = min(frame.height, frame.width)
    return DenseSettings(min(settings.short_side, side), min(settings.long_side, side), settings.mean, settings.std)


def resize(inputs: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
    """Pictures, and their mask where there is one, at another size."""
    if inputs[PIXELS].shape[-2:] == torch.Size(size):
        return dict(inputs)
    resized = {PIXELS: F.interpolate(inputs[PIXELS], size, mode="bilinear", align_corners=False)}
    if MASK in inputs:
        resized[MASK] = F.interpolate(inputs[MASK][:, None].float(), size)[:, 0].long()
    return resized


def preparation(loaded: Loaded, frame: Frame) -> dict[str, object]:
    """What has to be done to a picture: size, mean, standard deviation and the like."""
    if not isinstance(loaded, LoadedClassifier):
        stored = DenseSettings.from_processor(loaded.processor)
        settings = stored if frame.multiple else fitting(stored, frame)
        return {
            "short_side": settings.short_side,
            "long_side": settings.long_side,
            "rescale_factor": 1 / 255,
            "image_mean": list(settings.mean),
            "image_std": list(settings.std),
            "pad": "with zeros at right and bottom, after normalising",
        }
    kept = ("do_resize", "size", "do_center_crop", "crop_size", "resample", "do_rescale", "rescale_factor",
            "do_normalize", "image_mean", "image_std")  # fmt: skip
    content = loaded.processor.to_dict() if hasattr(loaded.processor, "to_dict") else vars(loaded.processor)
    return {name: content[name] for name in kept if content.get(name) is not None}
