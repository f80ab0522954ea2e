"""Pictures with masks in the layouts that people bring: the same labels come back, and what is wrong is named."""

import json

import datasets
import numpy as np
import pytest
from PIL import Image

from mona_peft.finetuning.data.dense.legend import read_legend
from mona_peft.finetuning.data.embedded.scene_objects import scene_objects
from mona_peft.finetuning.data.embedded.scenes import SceneSettings
from mona_peft.finetuning.data.sources.ade20k import scene_segmentation
from mona_peft.finetuning.data.sources.config import SegmentationDataConfig
from mona_peft.finetuning.data.sources.dense import load_segmentation
from tests.support.datasets import write_coco
from tests.support.layouts import stored_labels, write_coloured, write_panoptic, write_roboflow

SIZES = {"train": 3, "validation": 2, "test": 2}
SCENES = SceneSettings(size=48)


@pytest.fixture(scope="module")
def data():
    return scene_segmentation(SIZES, SCENES)


def assert_same(one, two):
    assert two.class_names == one.class_names
    assert {split: len(part) for split, part in two.splits.items()} == SIZES
    for split in SIZES:
        for first, second in zip(one.splits[split], two.splits[split], strict=True):
            for expected, found in zip(one.read(first), two.read(second), strict=True):
                assert np.array_equal(np.asarray(expected), np.asarray(found))


@pytest.mark.parametrize("palette", [False, True])
def test_coloured_masks_with_a_legend(data, tmp_path, palette, capsys):
    write_coloured(data, tmp_path, palette)
    loaded = load_segmentation(SegmentationDataConfig(dataset=str(tmp_path)))
    assert_same(data, loaded)
    said = capsys.readouterr().out
    assert "is read as images and masks with the legend class_dict.csv: 3 train, 2 validation, 2 test images" in said
    mask = tmp_path / "train" / "masks" / "0_mask.png"
    pixels = np.asarray(Image.open(mask).convert("RGB")).copy()
    pixels[5, 7] = (1, 2, 3)
    Image.fromarray(pixels).save(mask)
    with pytest.raises(
        ValueError, match=r"0_mask\.png has the colour \(1, 2, 3\) at x=7, y=5, which .*class_dict\.csv"
    ):
        loaded.read(loaded.splits["train"][0])
    with pytest.raises(ValueError, match="says what the classes are: leave out class_names"):
        load_segmentation(SegmentationDataConfig(dataset=str(tmp_path), class_names=["a"]))


@pytest.mark.parametrize(
    ("images", "masks"),
    [("images/{}", "masks/{}"), ("{}/images", "{}/labels"), ("{}", "{}_masks"), ("{}", "{}")],
)
def test_folders_of_numbers(data, tmp_path, images, masks):
    """Numbers that Roboflow's legend names, or `--class_names`, wherever the folders are."""
    together = images == masks
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        for place in {images.format(name), masks.format(name)}:
            (tmp_path / place).mkdir(parents=True)
        for number, sample in enumerate(data.splits[split]):
            image, labels = data.read(sample)
            image.save(tmp_path / images.format(name) / f"{number}.png")
            ending = "_mask" if together else ""
            stored_labels(labels, 0).save(tmp_path / masks.format(name) / f"{number}{ending}.png")
    settings = {"class_names": list(data.class_names)}
    assert_same(data, load_segmentation(SegmentationDataConfig(dataset=str(tmp_path), **settings)))
    rows = [f"{number}, {name}" for number, name in enumerate(data.class_names)]
    (tmp_path / "_classes.csv").write_text("Pixel Value, Class\n" + "\n".join(rows) + "\n")
    assert_same(data, load_segmentation(SegmentationDataConfig(dataset=str(tmp_path))))


def test_coco_panoptic(data, tmp_path):
    write_panoptic(data, tmp_path)
    loaded = load_segmentation(SegmentationDataConfig(dataset=str(tmp_path)))
    assert_same(data, loaded)
    file = tmp_path / "annotations" / "panoptic_train2017.json"
    content = json.loads(file.read_text())
    gone = content["annotations"][0]["segments_info"].pop()
    file.write_text(json.dumps(content))
    broken = load_segmentation(SegmentationDataConfig(dataset=str(tmp_path)))
    with pytest.raises(ValueError, match=rf"000000000001\.png has the segment {gone['id']}"):
        broken.read(broken.splits["train"][0])
    (tmp_path / "annotations" / "panoptic_train2017" / "000000000001.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 files of .* train are missing, such as .*000000000001\.png"):
        load_segmentation(SegmentationDataConfig(dataset=str(tmp_path)))


@pytest.mark.parametrize("write", [write_coco, write_roboflow])
def test_segmentations_of_objects_are_drawn(tmp_path, write):
    objects = scene_objects(SIZES, SCENES)
    write(objects, tmp_path)
    loaded = load_segmentation(SegmentationDataConfig(dataset=str(tmp_path)))
    assert loaded.class_names == ("background", *objects.class_names)
    image, labels = loaded.read(loaded.splits["train"][0])
    areas = {objects.categories[one["category_id"]]: 0 for one in objects.splits["train"][0].annotations}
    for one in objects.splits["train"][0].annotations:
        areas[objects.categories[one["category_id"]]] += one["area"]
    assert {name: (labels == loaded.class_names.index(name)).sum() for name in areas} == areas


def test_stuff_covers_its_images(tmp_path):
    objects = scene_objects(SIZES, SCENES)
    write_coco(objects, tmp_path)
    for file in (tmp_path / "annotations").iterdir():
        file.rename(file.with_name(file.name.replace("instances_", "stuff_")))
    loaded = load_segmentation(SegmentationDataConfig(dataset=str(tmp_path)))
    assert loaded.class_names == objects.class_names
    assert (loaded.read(loaded.splits["train"][0])[1] == 255).any()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("legend.csv", "name,r,g,b\nroad,1,2\n", r"legend\.csv, line 2: \['1', '2', None\] are no whole numbers"),
        ("legend.csv", "name,colour\nroad,red\n", r"has the columns name, colour; it needs name and r, g, b or id"),
        ("legend.csv", "name,id\nroad,1\ntree,1\n", r"legend\.csv, line 3: 'tree' has 1, which .* comes twice"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nroad:1,2::\n", "is neither a number nor a colour"),
        ("labelmap.txt", "road\n", r"labelmap\.txt, line 1: 'road' is no name:r,g,b"),
        ("legend.json", '{"void": [0, 0, 0]}', "lists no class"),
        ("legend.json", "[1]", "is no JSON object"),
        ("legend.json", '{"road": 300.5}', "is neither a number nor a colour"),
    ],
)
def test_a_bad_legend_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_legend(tmp_path / name)


def test_legends_of_every_kind_say_the_same(tmp_path):
    texts = {
        "class_dict.csv": "name, r, g, b\nroad, 10, 20, 30\nvoid, 0, 0, 0\ntree, 1, 2, 3\n",
        "labelmap.txt": "# label:color_rgb:parts:actions\nroad:10,20,30::\nvoid:0,0,0::\ntree:1,2,3::\n",
        "legend.json": '{"road": [10, 20, 30], "void": [0, 0, 0], "tree": [1, 2, 3]}',
    }
    stored = Image.fromarray(np.array([[[10, 20, 30], [0, 0, 0], [1, 2, 3]]], np.uint8))
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        legend = read_legend(tmp_path / name)
        assert legend.names == ("road", "tree") and legend.read(stored, "a.png").tolist() == [[0, 255, 1]]


def test_what_is_missing_is_asked_for(data, tmp_path):
    with pytest.raises(ValueError, match=r"is in no known layout: COCO panoptic"):
        load_segmentation(SegmentationDataConfig(dataset=str(tmp_path)))
    write_coloured(data, tmp_path)
    (tmp_path / "class_dict.csv").unlink()
    with pytest.raises(ValueError, match=r"needs --class_names, by label, or a legend such as .*legend\.csv"):
        load_segmentation(SegmentationDataConfig(dataset=str(tmp_path)))


def test_a_table_of_images_and_masks(data, tmp_path):
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    (tmp_path / "data").mkdir()
    for split, samples in data.splits.items():
        pairs = [data.read(sample) for sample in samples]
        columns = {"image": [image for image, _ in pairs], "mask": [stored_labels(labels, 0) for _, labels in pairs]}
        table = datasets.Dataset.from_dict(columns, features=features)
        table.to_parquet(str(tmp_path / "data" / f"{split}.parquet"))
    with pytest.raises(ValueError, match="needs --class_names"):
        load_segmentation(SegmentationDataConfig(dataset=str(tmp_path)))
    loaded = load_segmentation(SegmentationDataConfig(dataset=str(tmp_path), class_names=list(data.class_names)))
    assert_same(data, loaded)
    assert loaded.name == tmp_path.name  # a model card shows it
