"""`mona-peft data check`: it counts, finds what is wrong, draws, and training says the same."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from mona_peft.finetuning.checking.check import check, look_at
from mona_peft.finetuning.checking.config import CheckConfig
from mona_peft.finetuning.checking.kinds import guess_task
from mona_peft.finetuning.commands.main import main
from mona_peft.finetuning.data import faults
from mona_peft.finetuning.data.dense.segmentation import SegmentationData
from mona_peft.finetuning.data.embedded.scene_objects import scene_objects
from mona_peft.finetuning.data.embedded.scenes import SceneSettings
from mona_peft.finetuning.data.faults import class_faults, find_faults, warn_of_faults
from mona_peft.finetuning.data.sources.ade20k import scene_segmentation
from mona_peft.finetuning.data.sources.config import ObjectDataConfig, SegmentationDataConfig
from mona_peft.finetuning.data.sources.dense import load_objects, load_segmentation
from tests.support.datasets import write_coco
from tests.support.layouts import write_coloured, write_panoptic, write_table, write_yolo
from tests.support.photos import write_photos

SIZES = {"train": 4, "validation": 2, "test": 2}
SCENES = SceneSettings(size=48)


@pytest.fixture(scope="module")
def objects():
    return scene_objects(SIZES, SCENES)


@pytest.fixture(scope="module")
def maps():
    return scene_segmentation(SIZES, SCENES)


def texts(report):
    return [finding.text for finding in report.findings]


def test_the_task_is_found(objects, maps, tmp_path):
    writers = {
        "detection": (write_yolo, write_coco, write_table),
        "segmentation": (write_coloured, write_panoptic),
        "classification": (lambda data, folder: write_photos(folder),),
    }
    for task, write in ((task, one) for task, some in writers.items() for one in some):
        folder = tmp_path / task
        write(maps if task == "segmentation" else objects, folder)
        assert guess_task(folder) == task
        shutil.rmtree(folder)


def test_counts_are_those_of_the_data(objects, tmp_path):
    write_yolo(objects, tmp_path / "things")
    report = look_at(str(tmp_path / "things"), CheckConfig())
    for split, images in objects.splits.items():
        found = [objects.categories[one["category_id"]] for image in images for one in image.annotations]
        assert dict(report.counts[split]) == {name: found.count(name) for name in set(found)}
    assert report.sizes() == SIZES and not report.refused


def test_a_folder_of_classes_with_every_fault(tmp_path, capsys):
    write_photos(tmp_path / "photos" / "train", each=4)
    write_photos(tmp_path / "photos" / "test", each=2, classes=2)
    (tmp_path / "photos" / "test" / "purple").mkdir()
    shutil.copy(tmp_path / "photos" / "train" / "red" / "3.jpg", tmp_path / "photos" / "test" / "green" / "again.jpg")
    (tmp_path / "photos" / "train" / "red" / "0.jpg").write_bytes(b"no picture")
    page = tmp_path / "pages" / "photos.html"
    assert main(["data", "check", str(tmp_path / "photos"), "--page", str(page), "--samples", "3"]) == 1
    said, error = capsys.readouterr()
    assert re.search(r"^images +12 +5$", said, re.M) and re.search(r"^blue +4 +0$", said, re.M)
    assert re.search(r"refused: Cannot read .*red/0\.jpg", said)
    assert "warning: The class blue has something in train but nothing in test." in said
    assert re.search(r"warning: 2 images of test are in train as well: .*train/red/3.jpg and .*green/again.jpg", said)
    assert error.splitlines()[-1].startswith("Error: 1 faults of ")
    text = page.read_text()
    assert text.count("<img ") == 6 and "<li class=refused>" in text and "/pages" not in text


def test_folders_of_one_name_have_a_page_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine, yours = (str(write_photos(tmp_path / place / "photos", each=1)) for place in ("mine", "yours"))
    for folder in (mine, yours, mine):
        check(folder, CheckConfig(samples=0))
    assert len(list((tmp_path / "outputs").glob("photos-*-check.html"))) == 2


def test_objects_with_every_fault(objects, tmp_path):
    folder = tmp_path / "things"
    write_coco(objects, folder)
    file = folder / "annotations" / "instances_train.json"
    text = file.read_text()
    boxes = re.findall(r'"bbox": \[[^]]*\]', text)
    for old, new in zip(boxes, ("[-9, 2, 20, 5]", "[60, 5, 4, 4]", "[3, 3, 0, 4]"), strict=False):
        text = text.replace(old, f'"bbox": {new}', 1)
    file.write_text(text)
    train = sorted((folder / "train").iterdir())
    shutil.copy(train[0], sorted((folder / "test").iterdir())[0])
    train[1].unlink()
    Image.new("RGB", (10, 10)).save(train[2])
    report = look_at(str(folder), CheckConfig())
    refused = [finding.text for finding in report.refused]
    assert len(refused) == 2 and "No such file" in refused[0] and "has 10x10 pixels, its annotations" in refused[1]
    total = len(boxes)
    for words in (
        f"1 of {total} boxes of train lie outside their image and do not count: [60, 5, 4, 4] on ",
        f"1 of {total} boxes of train have no area and do not count: [3, 3, 0, 4] on ",
        f"1 of {total} boxes of train reach over the edge of their image and are cut: [-9, 2, 20, 5] on ",
        "1 images of test are in train as well: ",
    ):
        assert any(words in text for text in texts(report)), words


def test_training_warns_of_what_the_check_finds(objects, tmp_path):
    folder = tmp_path / "things"
    write_yolo(objects, folder)
    train = sorted((folder / "train" / "images").iterdir())
    shutil.copy(train[0], sorted((folder / "test" / "images").iterdir())[0])
    data = load_objects(ObjectDataConfig(dataset=str(folder)))
    with pytest.warns(UserWarning, match="1 images of test are in train as well") as caught:
        warn_of_faults(data, str(folder))
    assert [str(one.message).partition(": ")[2] for one in caught] == [one.text for one in find_faults(data)]
    report = look_at(str(folder), CheckConfig())
    assert texts(report) == [one.text for one in find_faults(data)] and not report.refused


def test_label_maps_are_counted_and_wrong_ones_refused(maps, tmp_path):
    folder = tmp_path / "streets"
    write_coloured(maps, folder)
    report = look_at(str(folder), CheckConfig())
    counted = sum((maps.read(sample)[1] == 0).sum() for sample in maps.splits["train"])
    assert report.counts["train"][maps.class_names[0]] == counted and not report.refused
    mask = folder / "train" / "masks" / "1_mask.png"
    Image.fromarray(np.zeros((48, 48, 3), np.uint8) + 7).save(mask)
    (refused,) = look_at(str(folder), CheckConfig()).refused
    assert "1_mask.png has the colour (7, 7, 7) at x=0, y=0" in refused.text


def test_training_on_label_maps_warns_of_what_the_check_finds(maps, tmp_path, monkeypatch):
    folder = tmp_path / "streets"
    write_coloured(maps, folder)
    legend = folder / "class_dict.csv"
    legend.write_text(legend.read_text() + "tunnel,1,2,3\n")
    data = load_segmentation(SegmentationDataConfig(dataset=str(folder)))
    with pytest.warns(UserWarning, match="tunnel has nothing in any split") as caught:
        warn_of_faults(data, str(folder))
    found = texts(look_at(str(folder), CheckConfig()))
    assert [str(one.message).partition(": ")[2] for one in caught] == found
    monkeypatch.setattr(faults, "MOST_COUNTED", 7)  # there are 8
    monkeypatch.setattr(SegmentationData, "pixels", None)
    assert find_faults(data) == []
    Image.fromarray(np.zeros((48, 48, 3), np.uint8) + 7).save(folder / "train" / "masks" / "1_mask.png")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="1_mask.png has the colour"):
        warn_of_faults(load_segmentation(SegmentationDataConfig(dataset=str(folder))), str(folder))


def test_a_table_is_compared_by_its_bytes(objects, tmp_path):
    both = {"train": objects.splits["train"], "test": objects.splits["train"][:1]}
    write_table(type(objects)("things", both, objects.categories), tmp_path / "things")
    report = look_at(str(tmp_path / "things"), CheckConfig())
    assert "1 images of test are in train as well: image of row 0 and image of row 0." in texts(report)


def test_what_cannot_be_loaded_is_the_finding(objects, tmp_path, capsys):
    write_yolo(objects, tmp_path / "things")
    next((tmp_path / "things" / "train" / "labels").iterdir()).write_text("9 0.5 0.5 0.1 0.1\n")
    assert main(["data", "check", str(tmp_path / "things")]) == 1
    assert ", line 1: the class is 9;" in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path / "gone")]) == 1
    assert "There is no folder" in capsys.readouterr().err
    assert main(["data", "check"]) == 2


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ({"train": {"a": 1, "b": 1}}, []),
        ({"train": {"a": 1}}, ["The class b has nothing in any split."]),
        ({"train": {"a": 1}, "test": {"a": 2, "b": 1}}, ["The class b has nothing in train but something in test."]),
        ({"train": {"a": 1, "b": 2}, "test": {"a": 2}}, ["The class b has something in train but nothing in test."]),
        ({"test": {"a": 2}}, []),
    ],
)
def test_classes_that_are_empty_or_differ(counts, text):
    assert [finding.text for finding in class_faults(counts, ("a", "b"))] == text
