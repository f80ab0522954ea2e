"""Dense tasks on a real backbone, here on a small one and a few generated drawings."""

import json

import numpy as np
import pytest
from PIL import Image

from mona_peft.finetuning.data.dense.masks import decode_mask
from mona_peft.finetuning.study.command import CompareConfig, parse_study, run_comparison
from mona_peft.finetuning.study.material import clipart, cutouts
from mona_peft.finetuning.study.testbeds import cutouts as testbed
from mona_peft.finetuning.study.testbeds.real import BACKBONE
from tests.finetuning.study.fakes import write_dinov2


@pytest.fixture
def drawings(tmp_path):
    """A library with eight discs a class, each of a colour of its own."""
    root = tmp_path / "library"
    rows, columns = np.mgrid[:60, :90]
    disc = (rows - 30) ** 2 + (columns - 45) ** 2 < 28**2
    for label, name in enumerate(cutouts.CLASSES):
        folder = root / clipart.CLASSES[name][0]
        folder.mkdir(parents=True)
        for letter in "abcdefgh":
            pixels = np.zeros((60, 90, 4), np.uint8)
            pixels[disc] = (40 * label, ord(letter), 255 - 40 * label, 255)
            Image.fromarray(pixels).save(folder / f"thing_{letter}.png")
    return root


@pytest.fixture
def material(tmp_path, drawings, monkeypatch):
    monkeypatch.setattr(cutouts, "fetch_clipart", lambda folder: drawings)
    monkeypatch.setattr(cutouts, "SIZES", {"train": 8, "validation": 3, "test": 4})
    monkeypatch.setattr(testbed, "STEPS", dict.fromkeys(testbed.MODELS, 2))
    folder = tmp_path / "material"
    cutouts.prepare_cutouts(folder)
    write_dinov2(folder / BACKBONE, 112, patch_size=14, num_hidden_layers=12, mlp_ratio=1)
    return folder


def test_masks_are_where_the_drawings_are(drawings):
    found = cutouts.find_cutouts(drawings)["train"]
    assert {one.label for one in found} == set(range(len(cutouts.CLASSES)))
    assert all(one.image.size == (55, 55) for one in found), "cropped to the disc"
    for seed in range(20):
        picture, objects = cutouts.compose("train", found, np.random.default_rng(seed))
        without, _ = cutouts.compose("train", clear(found), np.random.default_rng(seed))
        changed = (np.asarray(picture).astype(int) != np.asarray(without)).any(-1)
        masks = [decode_mask(one, 112, 112).astype(bool) for one in objects]
        union = np.any(masks, axis=0)
        assert np.sum(masks) == union.sum(), "no pixel belongs to two"
        # A drawing is pasted by its alpha, whose half is the mask's rim.
        assert not (union & ~changed).sum() > 0.02 * union.sum()
        for one, mask in zip(objects, masks, strict=True):
            rows, columns = np.nonzero(mask)
            x, y, width, height = one["bbox"]
            assert (x, y, x + width, y + height) == (
                columns.min(),
                rows.min(),
                columns.max() + 1,
                rows.max() + 1,
            )
            # The disc's colour says which class it is.
            red = np.median(np.asarray(picture)[mask][:, 0])
            assert round(red / 40) == one["category_id"] - 1


def clear(found):
    """The same drawings in white, so that every pixel they cover is another one."""
    return [
        one._replace(
            image=Image.merge("RGBA", [*[Image.new("L", one.image.size, 255)] * 3, one.image.getchannel("A")])
        )
        for one in found
    ]


def test_scenes_stay_if_the_drawings_cannot_be_had(material, monkeypatch):
    before = sorted((material / "cutouts").rglob("*"))

    def fail(folder):
        raise RuntimeError("no network")

    monkeypatch.setattr(cutouts, "fetch_clipart", fail)
    with pytest.raises(RuntimeError, match="no network"):
        cutouts.prepare_cutouts(material)
    assert sorted((material / "cutouts").rglob("*")) == before


def test_what_is_not_cut_out_is_left_out(tmp_path):
    opaque, faint = tmp_path / "opaque.png", tmp_path / "faint.png"
    Image.new("RGBA", (30, 30), (9, 9, 9, 255)).save(opaque)
    Image.new("RGBA", (30, 30), (9, 9, 9, 40)).save(faint)
    assert cutouts.read_cutout(opaque) is None and cutouts.read_cutout(faint) is None


def test_no_drawing_is_in_two_splits(drawings):
    found = cutouts.find_cutouts(drawings)
    colours = {split: {one.image.getpixel((27, 27)) for one in rows} for split, rows in found.items()}
    assert all(colours.values())
    assert not colours["train"] & colours["test"] and not colours["train"] & colours["validation"]


@pytest.mark.parametrize("task", ["semantic_segmentation", "detection"])
def test_a_study_runs_whole(tmp_path, material, task):
    places = [
        "--material",
        str(material),
        "--study_dir",
        str(tmp_path / "study"),
        "--results_dir",
        str(tmp_path / "r"),
    ]
    words = ["--task", task, "--testbed", "cutouts", "--methods", "mona", "fixed", "--learning_rates", "0.001"]
    results = run_comparison(*parse_study(CompareConfig, [*words, "--seeds", "1", *places]))
    assert {row.label for row in results.rows} == {"mona", "fixed"}
    described = results.settings["benchmark"]
    assert described["benchmark"] == f"cutouts-{task}" and str(material) not in json.dumps(described)
    assert described["split_sizes"] == {"train": 8, "validation": 3, "test": 4}


def test_what_has_no_model_is_refused(material):
    with pytest.raises(ValueError, match="for semantic_segmentation and detection, not for instance_segmentation"):
        testbed.CutoutsTestbed("instance_segmentation", material)
