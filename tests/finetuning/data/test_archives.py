"""The official layouts."""

import pytest

from mona_peft.finetuning.data.images import open_image
from mona_peft.finetuning.data.sources.archives import LEFT_OUT, NEGATIVE, POSITIVE, single_label
from mona_peft.finetuning.data.sources.classification import DataConfig, load_data
from mona_peft.finetuning.data.sources.presets import PRESETS, check_sizes
from mona_peft.finetuning.data.sources.voc import VOC_CLASSES
from tests.finetuning.data import layouts

pytestmark = pytest.mark.filterwarnings("ignore:.*not the full set")


def test_flowers102(tmp_path):
    numbers = layouts.flowers102(tmp_path)
    data = load_data(DataConfig(dataset="flowers102", data_dir=str(tmp_path)))
    assert len(data.class_names) == 102 and data.class_names[0] == "pink primrose" and not data.multilabel
    for split, expected in numbers.items():
        widths = [open_image(stored).width - 20 for stored in data.splits[split]["image"]]
        assert widths == expected
    assert list(data.splits["train"]["label"]) == [6, 1]
    assert list(data.splits["test"]["label"]) == [0, 1, 101, 101, 6, 6]


def test_oxford_pets(tmp_path):
    layouts.oxford_pets(tmp_path)
    data = load_data(DataConfig(dataset="oxford_pets", data_dir=str(tmp_path)))
    assert data.class_names == ("Abyssinian", "beagle", "yorkshire terrier")
    assert list(data.splits["train"]["label"]) == [0, 2] and list(data.splits["test"]["label"]) == [0, 1]
    assert open_image(data.splits["test"][1]["image"]).width == 23


def test_voc2007_multi_label(tmp_path):
    layouts.voc2007(tmp_path)
    data = load_data(DataConfig(dataset="voc2007", data_dir=str(tmp_path)))
    assert data.multilabel and data.class_names == tuple(VOC_CLASSES) and len(VOC_CLASSES) == 20
    dog_bird_cat, persons = data.splits["train"]["label"]
    marked = {name: value for name, value in zip(VOC_CLASSES, dog_bird_cat, strict=True) if value != NEGATIVE}
    assert marked == {"dog": POSITIVE, "bird": POSITIVE, "cat": LEFT_OUT}
    assert persons[VOC_CLASSES.index("person")] == POSITIVE and sum(persons) == 1
    (train,) = data.splits["test"]["label"]
    assert train[VOC_CLASSES.index("train")] == LEFT_OUT and sum(train) == -1


def test_voc2007_single_label(tmp_path):
    layouts.voc2007(tmp_path)
    data = load_data(
        DataConfig(dataset="voc2007", data_dir=str(tmp_path / "VOCdevkit" / "VOC2007"), voc_labels="single")
    )
    assert not data.multilabel
    assert [VOC_CLASSES[label] for label in data.splits["train"]["label"]] == ["dog", "person"]
    assert [VOC_CLASSES[label] for label in data.splits["test"]["label"]] == ["train"]
    with pytest.raises(ValueError, match="no single label"):
        single_label([])


@pytest.mark.parametrize("name, missing", [("flowers102", "imagelabels.mat"), ("oxford_pets", "trainval.txt")])
def test_a_missing_file_is_named(tmp_path, name, missing):
    with pytest.raises(FileNotFoundError, match=missing):
        load_data(DataConfig(dataset=name, data_dir=str(tmp_path)))


@pytest.mark.parametrize(
    "name, sizes", [("flowers102", (1020, 1020, 6149)), ("oxford_pets", (3680, 3669)), ("voc2007", (5011, 4952))]
)
def test_official_sizes(name, sizes, recwarn):
    preset = PRESETS[name]
    assert tuple(preset.sizes.values()) == sizes
    check_sizes(preset, preset.sizes)
    assert not recwarn.list
    moved = dict(preset.sizes)
    moved["train"], moved["test"] = moved["train"] - 1, moved["test"] + 1
    with pytest.raises(ValueError, match="the official ones are"):
        check_sizes(preset, moved)


@pytest.mark.filterwarnings("default:.*not the full set")
def test_a_part_of_the_set_is_told():
    with pytest.warns(UserWarning, match="not the full set"):
        check_sizes(PRESETS["oxford_pets"], {"train": 10, "test": 5})
