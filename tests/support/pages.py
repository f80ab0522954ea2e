"""What the README and the pages speak of: pictures, models under the names they have on the Hub, repositories."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import SwinConfig, SwinForImageClassification, ViTImageProcessor

import mona_peft
from mona_peft.finetuning.data.dense.transforms import DenseSettings
from mona_peft.finetuning.methods import apply_method
from mona_peft.finetuning.models.building import build_model
from mona_peft.finetuning.repository import save_repository
from tests.finetuning.data import layouts
from tests.finetuning.tasks.tiny_dense import ARCHITECTURE_OPTIONS, write_swin

SIZES: dict[str, Any] = {"depths": [1, 1], "num_heads": [2, 2], "embed_dim": 12}
SWIN = "microsoft/swin-tiny-patch4-window7-224"
SMALL_SWIN = "microsoft/swin-large-patch4-window7-224-in22k"
TIMM = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"


def write_template(folder: Path) -> None:
    """What every page finds in its folder."""
    write_photos(folder)
    layouts.flowers102(folder / "data")
    write_models(folder)


def write_photos(folder: Path) -> None:
    for place in ("photos", "split/train", "split/test"):
        for name, colour in (("daisy", "white"), ("rose", "red")):
            (folder / place / name).mkdir(parents=True)
            for number in range(1, 5):
                Image.new("RGB", (40, 30), colour).save(folder / place / name / f"{number:03}.jpg")
    (folder / "data").mkdir()


def write_models(folder: Path) -> None:
    """Random weights; a relative path goes before the Hub."""
    import timm

    for name, config in {SWIN: SwinConfig(**SIZES), SMALL_SWIN: SwinConfig(image_size=32, **SIZES)}.items():
        side = config.image_size
        SwinForImageClassification(config).save_pretrained(folder / name)
        ViTImageProcessor(size={"height": side, "width": side}).save_pretrained(folder / name)
    sizes = {"depth": 1, "embed_dim": 32, "num_heads": 2}
    timm.models.save_for_hf(timm.create_model("vit_tiny_patch16_224", **sizes), folder / TIMM, model_args=sizes)
    config_file = folder / TIMM / "config.json"  # timm adds arguments that transformers gives itself
    config_file.write_text(json.dumps({**json.loads(config_file.read_text()), "model_args": sizes}))
    stages: dict[str, Any] = dict(depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], embed_dim=8)  # as dense models need
    SwinConfig(image_size=32, patch_size=2, window_size=4, **stages).save_pretrained(folder / "tiny")
    shutil.copy(folder / "tiny" / "config.json", folder / "tiny.json")


def write_repositories() -> None:
    """Adapters that somebody trained, in the current folder."""
    lora = LoraConfig(target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"])
    mona = mona_peft.MonaConfig(modules_to_save=["classifier"])
    for name, config in {"user/pets-mona": mona, "models/birds": mona, "models/flowers-lora": lora}.items():
        model = get_peft_model(SwinForImageClassification.from_pretrained(SWIN), copy.deepcopy(config))
        mona_peft.save(model, name, ViTImageProcessor(size={"height": 224, "width": 224}))


def write_detector() -> None:
    """A detector that somebody trained, in the current folder."""
    base = write_swin(Path("user/swin"))
    model = build_model("retinanet", str(base), ["car", "tree"], **ARCHITECTURE_OPTIONS["retinanet"])
    save_repository(apply_method(model, "mona"), DenseSettings(64, 64).processor(), Path("user/street-retinanet"))


def given(page: str) -> dict[str, Any]:
    """What a page takes for granted, by its variables' names; the repositories it speaks of are written."""
    if page == "export.md":
        write_detector()
    if page not in ("performance.md", "serving.md", "app.md"):
        return {}
    write_repositories()
    picture = Image.new("RGB", (40, 30), "red")
    return {
        "model": mona_peft.load("user/pets-mona").model,
        "picture": picture,
        "another": picture,
        "pixel_values": torch.randn(2, 3, 224, 224),
    }
