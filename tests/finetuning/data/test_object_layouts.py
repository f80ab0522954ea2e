"""Images with objects in the layouts that people bring: the same objects come back, and what is wrong is named."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_fill_holes, label

from mona_peft.finetuning.data.dense.boxes import box_fault, find_box_format
from mona_peft.finetuning.data.dense.masks import decode_mask
from mona_peft.finetuning.data.dense.targets import training_targets
from mona_peft.finetuning.data.embedded.scene_objects import scene_objects
from mona_peft.finetuning.data.embedded.scenes import SceneSettings
from mona_peft.finetuning.data.sources.config import ObjectDataConfig
from mona_peft.finetuning.data.sources.dense import load_objects
from tests.support.datasets import write_coco
from tests.support.layouts import write_roboflow, write_table, write_yolo

SIZES = {"train": 4, "validation": 2, "test": 3}


@pytest.fixture(scope="module")
def data():
    return scene_objects(SIZES, SceneSettings(size=48))


def assert_same(one, two):
    assert two.class_names == one.class_names
    assert {split: len(images) for split, images in two.splits.items()} == SIZES
    for split in SIZES:
        found = {np.asarray(image.read()).tobytes(): image for image in two.splits[split]}
        for first in one.splits[split]:
            second = found[np.asarray(first.read()).tobytes()]
            targets = [training_targets(i, d.category_ids, False) for i, d in ((first, one), (second, two))]
            assert np.allclose(targets[0].boxes, targets[1].boxes, atol=1e-3)
            assert targets[0].labels.tolist() == targets[1].labels.tolist()


WRITERS = {
    "YOLO": write_yolo,
    "Roboflow's COCO export": write_roboflow,
    "COCO": write_coco,
    "a table": write_table,
}


@pytest.mark.parametrize("layout", WRITERS)
def test_each_layout_is_recognised_and_gives_the_same_objects(data, tmp_path, layout, capsys):
    WRITERS[layout](data, tmp_path)
    loaded = load_objects(ObjectDataConfig(dataset=str(tmp_path)))
    assert_same(data, loaded)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and f"is read as {layout}: 4 train, 2 validation, 3 test images, 5 classes (" in said


def test_outlines_of_yolo_are_masks_and_their_boxes(data, tmp_path):
    write_yolo(data, tmp_path, outlines=True)
    loaded = load_objects(ObjectDataConfig(dataset=str(tmp_path)))
    compared = 0
    for split in SIZES:
        found = sorted(loaded.splits[split], key=lambda image: int(image.source.stem))
        for first, second in zip(data.splits[split], found, strict=True):
            for one, other in zip(first.annotations, second.annotations, strict=True):
                mask = binary_fill_holes(decode_mask(one, 48, 48))  # an outline has no holes
                if label(mask)[1] == 1:
                    drawn = decode_mask(other, 48, 48).astype(bool)
                    assert (mask & drawn).sum() >= 0.9 * (mask | drawn).sum()
                    assert np.allclose(one["bbox"], other["bbox"], atol=1e-3)
                    compared += 1
    assert compared > 5


def test_folders_of_labelling_tools_without_data_yaml(data, tmp_path):
    write_yolo(data, tmp_path)
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(ValueError, match=r"has no data\.yaml or classes\.txt; give the names with --class_names"):
        load_objects(ObjectDataConfig(dataset=str(tmp_path)))
    assert_same(data, load_objects(ObjectDataConfig(dataset=str(tmp_path), class_names=list(data.class_names))))
    (tmp_path / "classes.txt").write_text("\n".join(data.class_names) + "\n")
    assert_same(data, load_objects(ObjectDataConfig(dataset=str(tmp_path))))


def test_a_list_of_pictures_in_data_yaml(data, tmp_path):
    write_yolo(data, tmp_path)
    names = sorted(path.name for path in (tmp_path / "train" / "images").iterdir())
    (tmp_path / "train.txt").write_text("".join(f"./train/images/{name}\n" for name in names[:3]))
    (tmp_path / "data.yaml").write_text(
        "train: train.txt\nval: [valid/images, test/images]\nnames: {0: a, 1: b, 2: c, 3: d, 4: e}\n"
    )
    loaded = load_objects(ObjectDataConfig(dataset=str(tmp_path)))
    assert {split: len(part) for split, part in loaded.splits.items()} == {"train": 3, "validation": 5}
    (tmp_path / "train.txt").write_text("train/images/lost.png\n")
    with pytest.raises(FileNotFoundError, match=r"train\.txt, line 1 lists 'train/images/lost\.png'"):
        load_objects(ObjectDataConfig(dataset=str(tmp_path)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("5 0.5 0.5 0.1 0.1", r"line 2: the class is 5; .*data\.yaml names the classes 0 to 4"),
        ("1.5 0.5 0.5 0.1 0.1", r"line 2: the class is 1\.5"),
        ("0 0.5 0.5 0.1", r"line 2: 4 values; a box has 5"),
        ("0 0.5 0.5 0.1 0.1 0.9", r"line 2: 6 values"),
        ("0 0.5 0.5 wide 0.1", r"line 2: '0 0\.5 0\.5 wide 0\.1' holds what is no number"),
        ("0 32 20 10 10", r"line 2: 32 20 10 10 lies outside the picture: all values are shares"),
        ("0 nan 0.5 0.1 0.1", r"line 2: nan 0\.5 0\.1 0\.1 lies outside"),
    ],
)
def test_a_bad_line_is_named(data, tmp_path, line, message):
    write_yolo(data, tmp_path)
    labels = next((tmp_path / "train" / "labels").iterdir())
    labels.write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(ValueError, match=f"{labels.name}, {message}"):
        load_objects(ObjectDataConfig(dataset=str(tmp_path)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: train/images\nnames: [a, b]\nnc: 3\n", r"nc is 3, but 2 names follow"),
        ("train: gone/images\nnames: [a]\n", r"train is 'gone/images', which is not in"),
        ("train: ../../etc\nnames: [a]\n", r"train is '\.\./\.\./etc', which is not in"),
        ("train: train/images\nnames: {0: a, 2: b}\n", r"the numbers of names are \[0, 2\]; they must be 0 to 1"),
        ("train: train/images\nnames: [a]\nkpt_shape: [17, 3]\n", "key points"),
        ("names: [a\n", "is no YAML"),
    ],
)
def test_a_bad_data_yaml_is_named(data, tmp_path, content, message):
    write_yolo(data, tmp_path)
    (tmp_path / "data.yaml").write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=rf"data\.yaml.*{message}"):
        load_objects(ObjectDataConfig(dataset=str(tmp_path)))


def test_lost_and_broken_pictures(data, tmp_path):
    write_yolo(data, tmp_path / "yolo")
    labels = next((tmp_path / "yolo" / "test" / "labels").iterdir())
    picture = tmp_path / "yolo" / "test" / "images" / f"{labels.stem}.png"
    picture.write_bytes(b"no picture")
    config = ObjectDataConfig(dataset=str(tmp_path / "yolo"))
    with pytest.raises(ValueError, match=f"Cannot read .*{picture.name}"):
        load_objects(config)
    config = ObjectDataConfig(dataset=str(tmp_path / "yolo"), skip_bad_images=True)
    assert len(load_objects(config).splits["test"]) == SIZES["test"] - 1
    picture.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{labels.name} has no picture in"):
        load_objects(config)
    write_roboflow(data, tmp_path / "coco")
    next((tmp_path / "coco" / "test").glob("*.png")).unlink()
    with pytest.raises(FileNotFoundError, match=r"1 files of coco test are missing, such as .*\.png"):
        load_objects(ObjectDataConfig(dataset=str(tmp_path / "coco")))


def test_turned_pictures_are_upright_for_yolo(tmp_path):
    """YOLO's tools turn a picture as EXIF says before they label it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    Image.new("RGB", (40, 20)).save(tmp_path / "images" / "a.png", exif=exif)
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.25 0.5 0.5\n")
    for frame, box, shown in (
        (None, [5, 0, 10, 20], [5, 0, 10, 20]),
        ("stored", [10, 0, 20, 10], [10, 10, 10, 20]),
    ):
        config = ObjectDataConfig(dataset=str(tmp_path), class_names=["a"], exif_frame=frame)
        (image,) = load_objects(config).splits["train"]
        assert image.annotations[0]["bbox"] == box
        picture, turned = image.load()
        assert picture.size == (20, 40) and turned.annotations[0]["bbox"] == shown


@pytest.mark.parametrize("kind", ["coco", "pascal_voc", "yolo", "albumentations"])
@pytest.mark.parametrize("named", [True, False])
def test_boxes_of_a_table_are_read_in_their_own_format(data, tmp_path, kind, named):
    write_table(data, tmp_path, kind, named)
    found = load_objects(ObjectDataConfig(dataset=str(tmp_path)))
    assert_same(data, found)
    assert found.name == tmp_path.name  # a model card shows it
    said = load_objects(ObjectDataConfig(dataset=str(tmp_path), box_format=kind))
    assert [i.annotations for i in said.splits["train"]] == [i.annotations for i in found.splits["train"]]


def test_the_format_is_asked_for_where_boxes_do_not_tell():
    with pytest.raises(
        ValueError, match=r"fit coco and pascal_voc\. Say which it is with --box_format \(coco is x, y"
    ):
        find_box_format([[2, 3, 5, 7]], [(20, 20)], "cells")
    with pytest.raises(ValueError, match="lie inside their images in none of coco"):
        find_box_format([[2, 3, 50, 7], [10, 10, 5, 5]], [(20, 20)] * 2, "cells")
    assert find_box_format([[2, 3, 5, 7], [10, 10, 5, 5]], [(20, 20)] * 2, "cells") == "coco"
    assert find_box_format([[0.5, 0.5, 0.5, 0.25]], [(20, 20)], "cells") == "yolo"


def test_a_wrong_row_of_a_table_is_named(data, tmp_path):
    write_table(data, tmp_path, "pascal_voc")
    with pytest.raises(ValueError, match=r"Row \d+ of .* has the box .*, which as yolo lies outside its image"):
        load_objects(ObjectDataConfig(dataset=str(tmp_path), box_format="yolo"))
    with pytest.raises(ValueError, match="label_column is 'things'; the columns of .* are image, objects"):
        load_objects(ObjectDataConfig(dataset=str(tmp_path), label_column="things"))


def test_an_image_folder_with_metadata(tmp_path):
    """`datasets` reads pictures with a `metadata.jsonl`, whose objects are lists by field."""
    (tmp_path / "train").mkdir()
    rows = []
    for number in range(3):
        Image.new("RGB", (30, 20), (number, 0, 0)).save(tmp_path / "train" / f"{number}.png")
        objects = {"bbox": [[2, 3, 10, 5], [1, 1, 29, 19]], "categories": [0, 1]}
        rows.append({"file_name": f"{number}.png", "objects": objects if number else {"bbox": [], "categories": []}})
    (tmp_path / "train" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = ObjectDataConfig(dataset=str(tmp_path), class_names=["cell", "nucleus"], box_format="coco")
    loaded = load_objects(config)
    assert [len(image.annotations) for image in loaded.splits["train"]] == [0, 2, 2]
    assert loaded.splits["train"][1].annotations[0]["bbox"] == [2, 3, 10, 5]
    assert loaded.class_names == ("cell", "nucleus")


@pytest.mark.parametrize(
    ("settings", "unread"),
    [
        ({"class_names": ["a", "b"]}, r"data\.yaml names the classes: leave out class_names"),
        ({"box_format": "coco", "label_column": "x"}, "name everything: leave out label_column, box_format"),
        ({"hub_revision": "main"}, "name everything: leave out hub_revision"),
    ],
)
def test_settings_that_yolos_files_decide_are_refused(data, tmp_path, settings, unread):
    write_yolo(data, tmp_path)
    with pytest.raises(ValueError, match=unread):
        load_objects(ObjectDataConfig(dataset=str(tmp_path), **settings))


def test_where_a_box_is():
    boxes = {"inside": [0, 0, 10, 10], "over": [15, 5, 10, 5], "outside": [20, 0, 5, 5], "empty": [1, 1, 0, 5]}
    faults = {name: box_fault(box, 20, 20) for name, box in boxes.items()}
    assert faults == {"inside": None, "over": "over", "outside": "outside", "empty": "empty"}
    assert box_fault([-0.5, 0, 20.9, 5], 20, 20) is None


def test_a_folder_in_no_layout_is_told_them_all(tmp_path):
    with pytest.raises(ValueError, match=r"is in no known layout: Pascal VOC \(.*YOLO \(data\.yaml, images/ and lab"):
        load_objects(ObjectDataConfig(dataset=str(tmp_path)))
