import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from scipy.ndimage import binary_fill_holes

from mona_peft.finetuning.data.dense.masks import decode_mask, encode_mask
from mona_peft.finetuning.data.dense.objects import ObjectImage, without_unreadable
from mona_peft.finetuning.data.dense.targets import training_targets
from mona_peft.finetuning.data.embedded.scene_objects import (
    mask_annotation,
    scene_objects,
)
from mona_peft.finetuning.data.embedded.scenes import SceneSettings, compose_scene
from mona_peft.finetuning.data.sources.coco import load_coco
from mona_peft.finetuning.data.sources.voc_detection import load_voc_detection
from tests.support.datasets import mask_to_polygons, write_coco, write_voc

SIZES = {"train": 5, "test": 4}
SCENES = SceneSettings(size=64)


@pytest.fixture(scope="module")
def data():
    return scene_objects(SIZES, SCENES)


def assert_same_objects(one, two, with_masks):
    assert {split: len(images) for split, images in one.splits.items()} == SIZES
    for split in SIZES:
        for first, second in zip(one.splits[split], two.splits[split], strict=True):
            assert np.array_equal(np.asarray(first.read()), np.asarray(second.read()))
            targets = [
                training_targets(image, d.category_ids, with_masks) for image, d in ((first, one), (second, two))
            ]
            assert np.array_equal(targets[0].boxes, targets[1].boxes)
            assert [one.class_names[n] for n in targets[0].labels] == [two.class_names[n] for n in targets[1].labels]
            if with_masks:
                assert np.array_equal(targets[0].masks, targets[1].masks)


def test_coco_round_trip_as_pycocotools_reads_it(data, tmp_path):
    layout = write_coco(data, tmp_path)
    assert_same_objects(data, load_coco(tmp_path, layout), with_masks=True)
    index = COCO(str(tmp_path / layout["train"][0]))
    scene = compose_scene("train", 0, SCENES)
    annotations = index.loadAnns(index.getAnnIds(imgIds=[data.splits["train"][0].id]))
    assert len(annotations) == len(scene.labels) > 0
    for annotation, mask in zip(annotations, scene.masks, strict=True):
        assert np.array_equal(index.annToMask(annotation).astype(bool), mask)


def test_voc_round_trip(data, tmp_path):
    parts = write_voc(data, tmp_path / "VOCdevkit")
    loaded = load_voc_detection(tmp_path, parts, data.class_names)
    assert_same_objects(data, loaded, with_masks=False)


def test_voc_boxes_count_from_one_and_difficult_objects_do_not_train(tmp_path):
    folder = tmp_path / "VOC2007"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    (folder / "ImageSets/Main/test.txt").write_text("000001\n")
    Image.new("RGB", (20, 10)).save(folder / "JPEGImages" / "000001.jpg")
    objects = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>1</xmin><ymin>1</ymin>"
        "<xmax>20</xmax><ymax>5</ymax></bndbox></object>"
        for name, difficult in (("dog", 0), ("cat", 1))
    )
    size = "<size><width>20</width><height>10</height></size>"
    xml = f"<annotation><filename>000001.jpg</filename>{size}{objects}</annotation>"
    (folder / "Annotations/000001.xml").write_text(xml)
    data = load_voc_detection(tmp_path, {"test": (("2007", "test"),)})
    (image,) = data.splits["test"]
    targets = training_targets(image, data.category_ids, with_masks=False)
    assert targets.boxes.tolist() == [[0, 0, 20, 5]]
    assert [data.class_names[label] for label in targets.labels] == ["dog"]
    assert [a["difficult"] for a in image.annotations] == [0, 1]
    (folder / "Annotations/000001.xml").write_text(xml.replace("dog", "unicorn"))
    with pytest.raises(ValueError, match="unicorn"):
        load_voc_detection(tmp_path, {"test": (("2007", "test"),)})
    with pytest.raises(FileNotFoundError, match="trainval.txt"):
        load_voc_detection(tmp_path)


def test_every_kind_of_mask_is_decoded_as_pycocotools_does():
    mask = np.zeros((9, 7), bool)
    mask[2:6, 1:5] = True
    flat = mask.ravel(order="F")
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[~flat[0]], flat, [~flat[-1]]]))))
    counts = ([] if not flat[0] else [0]) + runs.tolist()
    polygon = [1, 2, 5, 2, 5, 6, 1, 6]
    for segmentation in (encode_mask(mask), {"size": [9, 7], "counts": counts}, [polygon]):
        assert np.array_equal(decode_mask({"segmentation": segmentation}, 9, 7).astype(bool), mask)
    two = [polygon, [0, 7, 2, 7, 2, 9, 0, 9]]
    expected = rle.decode(rle.merge(rle.frPyObjects(two, 9, 7)))
    assert np.array_equal(decode_mask({"segmentation": two}, 9, 7), expected)
    assert not decode_mask({"segmentation": []}, 9, 7).any()
    with pytest.raises(ValueError, match="no segmentation"):
        decode_mask({"id": 3}, 9, 7)
    with pytest.raises(ValueError, match="size"):
        decode_mask({"segmentation": encode_mask(mask)}, 7, 9)


def test_polygons_of_a_mask_give_it_back_with_its_holes_filled():
    filled_any = 0
    for index in range(12):
        for mask in compose_scene("train", index, SCENES).masks:
            again = decode_mask({"segmentation": mask_to_polygons(mask)}, *mask.shape).astype(bool)
            # A hole that touches the outside by a corner is none.
            filled = binary_fill_holes(mask, structure=np.ones((3, 3)))
            assert np.array_equal(again, filled)
            filled_any += not np.array_equal(mask, filled)
    assert filled_any


def crowd_image(annotations, side=16):
    return ObjectImage(1, side, side, lambda: Image.new("RGB", (side, side)), tuple(annotations))


def test_what_trains_and_what_does_not():
    mask = np.zeros((16, 16), bool)
    mask[2:6, 2:6] = True
    good = mask_annotation(mask, 5, (2, 2, 6, 6))
    crowd = mask_annotation(mask, 5, (2, 2, 6, 6), iscrowd=1)
    empty = mask_annotation(np.zeros((16, 16), bool), 5, (8, 8, 12, 12))
    outside = {**good, "bbox": [20, 20, 5, 5]}
    partly = {**good, "bbox": [-3, -4, 8, 9]}
    thin = {**good, "bbox": [2, 2, 0.5, 4]}
    targets = training_targets(crowd_image([good, crowd, empty, outside, partly, thin]), (5,), with_masks=True)
    assert targets.boxes.tolist() == [[2, 2, 6, 6], [0, 0, 5, 5]]
    assert len(training_targets(crowd_image([good, empty]), (5,), with_masks=False).labels) == 2
    nothing = training_targets(crowd_image([]), (5,), with_masks=True)
    assert nothing.boxes.shape == (0, 4) and nothing.masks.shape == (0, 16, 16)
    with pytest.raises(ValueError, match="category 5"):
        training_targets(crowd_image([good]), (1, 2), with_masks=False)


def test_broken_files_are_named_or_left_out(data, tmp_path):
    layout = write_coco(data, tmp_path)
    bad = tmp_path / "train" / f"{data.splits['train'][1].id:012d}.png"
    bad.write_bytes(bad.read_bytes()[:200])
    loaded = load_coco(tmp_path, layout)
    with pytest.raises(ValueError, match=bad.name):
        loaded.splits["train"][1].read()
    kept, listed = without_unreadable(loaded)
    assert listed == [bad]
    assert [image.id for image in kept.splits["train"]] == [
        image.id for number, image in enumerate(data.splits["train"]) if number != 1
    ]
    file = tmp_path / layout["test"][0]
    content = json.loads(file.read_text())
    content["images"][0]["height"] = 32
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"RLE of size \[64, 64\] on an image of \[32, 64\]"):
        load_coco(tmp_path, layout)
    for annotation in content["annotations"]:
        annotation["segmentation"] = []
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="64x64 pixels, its annotations are for 64x32"):
        load_coco(tmp_path, layout).splits["test"][0].read()
    file.write_text("{}")
    with pytest.raises(ValueError, match="no COCO instances file"):
        load_coco(tmp_path, layout)
    with pytest.raises(FileNotFoundError, match="instances_train2017"):
        load_coco(tmp_path)
