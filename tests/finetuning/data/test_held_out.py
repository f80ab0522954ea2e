"""A validation split cut off the training split: of every class, drawn by the seed, and in every task."""

from dataclasses import replace

import numpy as np
import pytest

from mona_peft.finetuning.commands.starting import HELD_OUT, with_validation
from mona_peft.finetuning.data.embedded.scene_objects import scene_objects
from mona_peft.finetuning.data.embedded.scenes import SceneSettings
from mona_peft.finetuning.data.sources.ade20k import scene_segmentation
from mona_peft.finetuning.data.sources.classification import load_data
from mona_peft.finetuning.data.sources.config import DataConfig, ObjectDataConfig, SegmentationDataConfig
from mona_peft.finetuning.data.sources.dense import load_objects, load_segmentation
from mona_peft.finetuning.data.sources.holding_out import draw_held_out, split_positions
from tests.support.datasets import write_ade, write_coco, write_voc
from tests.support.photos import write_photos

SCENES = SceneSettings(size=32)


@pytest.mark.parametrize("sizes", [(40, 40), (100, 7, 2), (1, 9, 30)])
def test_every_class_is_held_out_and_trained_on(sizes):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    held = draw_held_out(groups, 0.1, seed=0)
    counts = np.bincount(groups[held], minlength=len(sizes))
    assert counts.tolist() == [min(size - 1, max(1, round(0.1 * size))) for size in sizes]
    assert held.tolist() == draw_held_out(groups, 0.1, seed=0).tolist() == sorted(held)
    assert held.tolist() != draw_held_out(groups, 0.1, seed=1).tolist()


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="2 training images, too few .* --validation_fraction 0"):
        split_positions([0, 1], 0.1, seed=0)


def test_a_folder_of_classes(tmp_path, capsys):
    folder = write_photos(tmp_path / "photos", each=5)
    data = load_data(DataConfig(dataset=str(folder), validation_fraction=0.1))
    assert sorted(data.splits["validation"]["label"]) == [0, 1, 2] and len(data.splits["train"]) == 12
    assert "3 of the 15 training images are held out" in capsys.readouterr().out
    assert "validation" not in load_data(DataConfig(dataset=str(folder))).splits
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("is read as a folder a class: 15 train images, 3 classes (blue, green, red).")


@pytest.mark.parametrize("write", [write_coco, write_voc])
def test_objects_come_from_a_folder_and_are_held_out(tmp_path, write, capsys):
    data = scene_objects({"train": 6}, SCENES)
    write(data, tmp_path)
    config = ObjectDataConfig(dataset=str(tmp_path), validation_fraction=0.34)
    loaded = load_objects(config)
    assert len(loaded.splits["validation"]) == 2 and len(loaded.splits["train"]) == 4
    assert "2 of the 6 training images are held out" in capsys.readouterr().out
    names = {image.source.name for part in loaded.splits.values() for image in part}
    assert len(names) == 6 and {*data.class_names} <= {*loaded.class_names}
    assert "validation" not in load_objects(replace(config, validation_fraction=0)).splits


def test_objects_refuse_what_their_files_decide(tmp_path):
    with pytest.raises(ValueError, match="read from files that name everything: leave out hub_id, class_names"):
        load_objects(ObjectDataConfig(dataset="coco", hub_id="user/name", class_names=["a"]))
    with pytest.raises(ValueError, match="is in no known layout: Pascal VOC"):
        load_objects(ObjectDataConfig(dataset=str(tmp_path)))
    with pytest.raises(ValueError, match="There is no folder cells. --dataset is a folder in a known layout"):
        load_objects(ObjectDataConfig(dataset="cells"))


def test_label_maps_come_from_a_folder_and_are_held_out(tmp_path):
    data = scene_segmentation({"train": 5}, SCENES)
    write_ade(data, tmp_path / "rooms")
    settings = {"class_names": list(data.class_names), "reduce_zero_label": True, "validation_fraction": 0.2}
    loaded = load_segmentation(SegmentationDataConfig(dataset=str(tmp_path / "rooms"), **settings), seed=3)
    assert {split: len(part) for split, part in loaded.splits.items()} == {"train": 4, "validation": 1}
    with pytest.raises(ValueError, match=r"The folder \./halls does not exist"):
        load_segmentation(SegmentationDataConfig(dataset="./halls", **settings))
    with pytest.raises(ValueError, match="needs --class_names"):
        load_segmentation(SegmentationDataConfig(dataset=str(tmp_path / "rooms")))


@pytest.mark.parametrize(
    ("settings", "given", "share"),
    [
        ({"dataset": "photos"}, set(), HELD_OUT),
        ({"dataset": "user/name"}, set(), HELD_OUT),
        ({"dataset": "photos"}, {"validation_fraction"}, 0.0),
        ({"dataset": "oxford_pets"}, set(), 0.0),
        ({"dataset": "photos", "streaming": True}, set(), 0.0),
    ],
)
def test_the_command_holds_out_what_has_no_official_splits(settings, given, share):
    assert with_validation(DataConfig(**settings), given).validation_fraction == share
