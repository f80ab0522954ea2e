"""Any data set's splits can be named, whatever its layout calls them; and a split that is named has one part."""

import shutil

import pytest

from mona_peft.finetuning.data.embedded.scenes import SceneSettings
from mona_peft.finetuning.data.sources.ade20k import scene_segmentation
from mona_peft.finetuning.data.sources.classification import load_data
from mona_peft.finetuning.data.sources.config import DataConfig, ObjectDataConfig, SegmentationDataConfig
from mona_peft.finetuning.data.sources.dense import load_objects, load_segmentation
from mona_peft.finetuning.data.sources.hub import pick_splits
from tests.finetuning import official_layouts
from tests.finetuning.data import layouts
from tests.support.datasets import write_ade, write_coco

pytestmark = pytest.mark.filterwarnings("ignore")
SCENES = SceneSettings(size=32)
AVAILABLE = {"train": "t", "val": "v", "test": "e", "extra": "x"}


@pytest.mark.parametrize(
    ("wanted", "picked"),
    [
        ({}, {"train": "t", "validation": "v", "test": "e"}),
        ({"validation": "test"}, {"train": "t", "validation": "e"}),
        ({"test": "val"}, {"train": "t", "test": "v"}),
        ({"test": "extra"}, {"train": "t", "validation": "v", "test": "x"}),
        ({"validation": "train"}, {"train": "t", "validation": "t", "test": "e"}),
        ({"train": "extra"}, {"train": "x", "validation": "v", "test": "e"}),
    ],
)
def test_a_split_named_for_validation_is_not_the_test_split_as_well(wanted, picked):
    assert pick_splits(AVAILABLE, {**dict.fromkeys(("train", "validation", "test")), **wanted}) == picked


def sizes(data):
    return {split: len(part) for split, part in data.splits.items()}


def segmentation(tmp_path, **named):
    """ADE20K's layout has no test split; this one has the validation images as `held` too."""
    if not (tmp_path / "images").is_dir():
        write_ade(scene_segmentation({"train": 3, "validation": 2}, SCENES), tmp_path)
        for part in ("images", "annotations"):
            shutil.copytree(tmp_path / part / "validation", tmp_path / part / "held")
            shutil.copytree(tmp_path / part / "validation", tmp_path / part / "val")
    return load_segmentation(SegmentationDataConfig(dataset="ade20k", data_dir=str(tmp_path), **named))


def test_folders_of_label_maps(tmp_path):
    assert sizes(segmentation(tmp_path)) == {"train": 3, "validation": 2}
    assert sizes(segmentation(tmp_path, test_split="held")) == {"train": 3, "validation": 2, "test": 2}
    only = segmentation(tmp_path, test_split="validation")
    assert "held" not in str(only.splits["test"]) and "/val/" in str(only.splits["validation"][0].image)
    with pytest.raises(ValueError, match="no split 'mine'; there are held, training, val, validation"):
        segmentation(tmp_path, test_split="mine")
    shutil.rmtree(tmp_path / "images" / "training")
    with pytest.raises(ValueError, match="No split to train on among held, val, validation"):
        segmentation(tmp_path)
    names = {"class_names": list("abcdef"), "reduce_zero_label": True}
    own = SegmentationDataConfig(dataset=str(tmp_path), train_split="held", **names)
    assert sizes(load_segmentation(own)) == {"train": 2, "validation": 2}


def test_official_archives_and_embedded_data(tmp_path):
    layouts.flowers102(tmp_path)
    config = DataConfig(dataset="flowers102", data_dir=str(tmp_path), train_split="test", test_split="train")
    assert sizes(load_data(config)) == {"train": 6, "validation": 1, "test": 2}
    assert sizes(load_data(DataConfig(dataset="digits", test_split="validation"))).keys() == {"train", "test"}
    scenes = SegmentationDataConfig(dataset="scenes", validation_scenes=3, test_scenes=4, validation_split="test")
    assert sizes(load_segmentation(scenes)) == {"train": 200, "validation": 4}


def test_objects(tmp_path):
    official_layouts.voc0712(tmp_path / "voc")
    voc = {"dataset": "voc0712", "data_dir": str(tmp_path / "voc")}
    assert sizes(load_objects(ObjectDataConfig(**voc))) == {"train": 6, "test": 2}
    assert sizes(load_objects(ObjectDataConfig(**voc, validation_split="test"))) == {"train": 6, "validation": 2}
    write_coco(official_layouts.scenes(a=3, b=2, c=1), tmp_path / "coco")
    files = {}
    for split, name in (("train", "a"), ("validation", "b"), ("test", "c")):
        files |= {f"{split}_annotations": f"annotations/instances_{name}.json", f"{split}_images": name}
    config = ObjectDataConfig(dataset="coco", data_dir=str(tmp_path / "coco"), **files)
    assert sizes(load_objects(config)) == {"train": 3, "validation": 2, "test": 1}
    with pytest.raises(ValueError, match="both test_annotations and test_images"):
        load_objects(ObjectDataConfig(**{**vars(config), "test_images": None}))
