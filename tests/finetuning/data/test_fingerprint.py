"""A fingerprint changes with what a run learns, and with nothing else."""

from dataclasses import replace

import datasets
import pytest

from mona_peft.finetuning.data.data_set import describe_data
from mona_peft.finetuning.data.embedded.scene_objects import scene_objects
from mona_peft.finetuning.data.embedded.scenes import SceneSettings
from mona_peft.finetuning.data.sources.ade20k import scene_segmentation
from mona_peft.finetuning.data.sources.classification import DataConfig, load_data
from mona_peft.finetuning.tasks.classification import ClassificationConfig, ClassificationTask
from tests.finetuning.data import layouts
from tests.finetuning.tasks.tiny_classifier import write_classifier

SIZES = {"train": 3, "test": 2}


def image_folder(root, classes=("cat", "dog"), names=("1.png", "2.png")):
    for label in classes:
        for name in names:
            layouts.write_image(root / "train" / label / name, 5)
    return load_data(DataConfig(dataset=str(root)))


def test_of_an_image_folder(tmp_path):
    first = image_folder(tmp_path / "a").fingerprint()
    assert image_folder(tmp_path / "a").fingerprint() == first
    assert image_folder(tmp_path / "elsewhere").fingerprint() == first  # the same data, moved
    others = [
        image_folder(tmp_path / "b", ("cat", "wolf")),
        image_folder(tmp_path / "c", names=("1.png", "3.png")),
        image_folder(tmp_path / "d", names=("1.png",)),
    ]
    assert len({first, *(data.fingerprint() for data in others)}) == 4


def test_of_labels_streams_and_several_labels():
    data = load_data(DataConfig(dataset="digits", shots=2))
    # Another draw of the scans has the same labels.
    assert data.fingerprint() == load_data(DataConfig(dataset="digits", shots=2)).fingerprint()
    assert data.fingerprint() != load_data(DataConfig(dataset="digits", shots=2), seed=1).fingerprint()
    swapped = {**data.splits, "train": data.splits["train"].select([9, *range(9)])}
    assert data.with_splits(swapped).fingerprint() != data.fingerprint()
    stream = data.with_splits({**data.splits, "train": data.splits["train"].to_iterable_dataset()})
    assert stream.fingerprint() not in (data.fingerprint(), data.with_splits({}).fingerprint())
    several = datasets.Dataset.from_dict({"image": [None, None], "label": [[1, 0], [0, 1]]})
    other = datasets.Dataset.from_dict({"image": [None, None], "label": [[1, 0], [1, 1]]})
    one, two = (replace(data, splits={"train": rows}, multilabel=True) for rows in (several, other))
    assert one.fingerprint() != two.fingerprint()


@pytest.mark.parametrize("load", [scene_objects, scene_segmentation])
def test_of_dense_data(load):
    data = load(SIZES, SceneSettings(size=64))
    assert load(SIZES, SceneSettings(size=64)).fingerprint() == data.fingerprint()
    others = [load(SIZES, SceneSettings(size=32)), load({**SIZES, "test": 3}, SceneSettings(size=64))]
    assert len({data.fingerprint(), *(other.fingerprint() for other in others)}) == 3
    described = describe_data(data)
    assert described.pop("annotation_fingerprint", 0) != described.pop("exif_frame", 0)  # of objects, of label maps
    assert described == {
        "dataset": "scenes",
        "class_names": list(data.class_names),
        "split_sizes": SIZES,
        "data_fingerprint": data.fingerprint(),
    }


def test_of_boxes_and_categories():
    data = scene_objects(SIZES, SceneSettings(size=64))
    image = next(image for image in data.splits["train"] if image.annotations)
    first, *rest = image.annotations
    x, *box = first["bbox"]
    changes = [{"bbox": [x + 1, *box]}, {"category_id": first["category_id"] + 1}]
    moved = [replace(image, annotations=({**first, **change}, *rest)) for change in changes]
    prints = {data.fingerprint(), replace(data, categories={**data.categories, 5: "five"}).fingerprint()}
    prints |= {replace(data, splits={"train": [one], "test": data.splits["test"]}).fingerprint() for one in moved}
    assert len(prints) == 4


def test_of_what_else_is_annotated():
    data = scene_objects(SIZES, SceneSettings(size=64))
    image = next(image for image in data.splits["train"] if image.annotations)
    first, *rest = image.annotations
    polygon = {"segmentation": [[1, 2, 3, 4, 5, 6]]}
    changes = [{"iscrowd": 1}, {"difficult": 1}, {"area": 3}, polygon, {"segmentation": [[1, 2, 3, 4, 5, 7]]}]
    others = [replace(image, annotations=({**first, **change}, *rest)) for change in changes]
    others.append(replace(image, frame="stored"))
    sets = [data, *(replace(data, splits={"train": [one]}) for one in [image, *others])]
    assert len({one.annotation_fingerprint() for one in sets}) == len(sets)
    assert len({one.fingerprint() for one in sets}) == 2  # what earlier runs recorded


def test_of_the_frame_of_label_maps_and_the_shuffling_of_a_stream(tmp_path):
    data = scene_segmentation(SIZES, SceneSettings(size=64))
    frames = [describe_data(replace(data, exif_frame=frame))["exif_frame"] for frame in (None, "stored", "upright")]
    assert frames == [None, "stored", "upright"]
    digits = load_data(DataConfig(dataset="digits", shots=2))
    stream = digits.with_splits({"train": digits.splits["train"].to_iterable_dataset()})
    config = ClassificationConfig(model=str(write_classifier(tmp_path / "model")))
    tasks = [ClassificationTask(one, config, shuffle_buffer=5) for one in (digits, stream)]
    assert [task.describe().get("shuffle_buffer") for task in tasks] == [None, 5]
