"""Hub data sets, parquet and tar shards, image folders, streams, and images that cannot be read."""

import io
import json
import tarfile

import datasets
import numpy as np
import pytest
from PIL import Image

from mona_peft.finetuning.data.classification.dataset import ClassificationImages, ClassificationStream
from mona_peft.finetuning.data.sources.classification import DataConfig, load_data
from mona_peft.finetuning.data.sources.hub import find_image_column, find_label_column, load_splits
from mona_peft.finetuning.data.sources.labels import find_class_names
from tests.finetuning.data import layouts


def image(number: int) -> Image.Image:
    return Image.new("RGB", (10, 10), (number, 0, 0))


def red(sample) -> int:
    return round(float(sample["pixel_values"]))


def red_of(picture: Image.Image):
    return np.asarray(picture)[0, 0, 0]


@pytest.fixture
def parquet(tmp_path):
    """Two training shards and a test shard, with an image column and named classes under unusual names."""
    features = datasets.Features({"photo": datasets.Image(), "species": datasets.ClassLabel(names=["cat", "dog"])})
    folder = tmp_path / "shards"
    for name, start in (("train-00000-of-00002", 0), ("train-00001-of-00002", 10), ("test-00000-of-00001", 20)):
        rows = {"photo": [image(start + i) for i in range(10)], "species": [i % 2 for i in range(10)]}
        (folder / "data").mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(folder / "data" / f"{name}.parquet"))
    return folder


def test_parquet_shards(parquet):
    data = load_data(DataConfig(dataset=str(parquet)))
    assert data.class_names == ("cat", "dog") and data.image_column == "photo"
    samples = ClassificationImages(data.splits["train"], data, red_of)
    assert [red(sample) for sample in samples] == pytest.approx(list(range(20)), abs=2)
    assert [int(sample["labels"]) for sample in samples] == [0, 1] * 10
    assert len(data.splits["test"]) == 10 and "validation" not in data.splits


def test_few_training_images_of_each_class(parquet):
    config = DataConfig(dataset=str(parquet), validation_fraction=0.25, shots=3)
    first, again, other = load_data(config), load_data(config), load_data(config, seed=1)
    assert first.splits["train"]["label"][:].count(0) == first.splits["train"]["label"][:].count(1) == 3
    whole = load_data(DataConfig(dataset=str(parquet), validation_fraction=0.25))
    assert first.splits["validation"]["photo"][:] == whole.splits["validation"]["photo"][:], "held out before the draw"
    assert len(first.splits["test"]) == 10
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert len(load_data(DataConfig(dataset=str(parquet), shots=15)).splits["train"]) == 20, "all there are"
    with pytest.raises(ValueError, match="shots=3 draws images by class.*a stream cannot be drawn from"):
        load_data(DataConfig(dataset=str(parquet), shots=3, streaming=True))


def test_held_out_share(parquet):
    config = DataConfig(dataset=str(parquet), validation_fraction=0.25)
    first, again, other = load_data(config), load_data(config), load_data(config, seed=1)
    reds = [
        [red(sample) for sample in ClassificationImages(data.splits["validation"], data, red_of)]
        for data in (first, again, other)
    ]
    assert len(reds[0]) == 4 and len(first.splits["train"]) == 16
    assert sorted(first.splits["validation"]["label"]) == [0, 0, 1, 1]
    assert reds[0] == reds[1] != reds[2]


@pytest.mark.parametrize("processes", [1, 2])
def test_streams_are_sharded_by_process_and_complete(parquet, processes):
    data = load_data(DataConfig(dataset=str(parquet), streaming=True))
    seen = []
    for process in range(processes):
        stream = ClassificationStream(data.splits["train"], data, red_of, shuffle_buffer=5, seed=0)
        if processes > 1:
            stream.shard(process, processes)
        part = [red(sample) for sample in stream]
        assert len(part) == 20 // processes and part != sorted(part)
        seen += part
    assert sorted(seen) == pytest.approx(list(range(20)), abs=2)


def test_webdataset_shards(tmp_path):
    for shard in range(2):
        with tarfile.open(tmp_path / f"train-{shard}.tar", "w") as tar:
            for number in range(3):
                buffer = io.BytesIO()
                image(10 * shard + number).save(buffer, format="PNG")
                for suffix, content in (("png", buffer.getvalue()), ("cls", str(number % 2).encode())):
                    member = tarfile.TarInfo(f"{shard}{number:03d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    data = load_data(DataConfig(dataset=str(tmp_path)))
    samples = ClassificationImages(data.splits["train"], data, red_of)
    assert sorted(red(sample) for sample in samples) == [0, 1, 2, 10, 11, 12]
    assert [int(sample["labels"]) for sample in samples] == [0, 1, 0, 0, 1, 0]
    assert data.class_names == ("0", "1")
    with pytest.raises(ValueError, match="--class_names"):
        find_class_names(load_splits(str(tmp_path), streaming=True)["train"], "cls")


def test_image_folder(tmp_path):
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            layouts.write_image(tmp_path / split / label / "1.png", 5)
    data = load_data(DataConfig(dataset=str(tmp_path)))
    assert data.class_names == ("cat", "dog")
    assert sorted(data.splits["train"]["label"]) == [0, 1] and set(data.splits) == {"train", "test"}


def write_pictures(root, *names: str) -> DataConfig:
    for number, name in enumerate(names):
        layouts.write_image(root / name, number)
    return DataConfig(dataset=str(root))


@pytest.mark.parametrize(
    "names",
    [
        [f"{label}/{i}.png" for label in ("train_freight", "train_passenger", "bus", "test") for i in range(3)],
        [f"{label}/{name}.png" for label in ("a", "b") for name in ("1", "2", "3", "a-train-1", "a_test_2")],
        [f"train/{label}/{i}.png" for label in ("test_bus", "bus", "val") for i in range(3)],
    ],
    ids=["classes", "pictures", "classes of a split"],
)
def test_names_that_hold_the_word_of_a_split_are_kept(tmp_path, names):
    data = load_data(write_pictures(tmp_path, *names))
    assert set(data.class_names) == {name.split("/")[-2] for name in names}
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": len(names)}


def test_pictures_in_no_split_are_said(tmp_path):
    names = [f"{split}/{label}/{i}.png" for split in ("Train2017", "my-val") for label in ("a", "b") for i in range(2)]
    config = write_pictures(tmp_path, *names, "extra/a/1.png", "test/1.png")
    with pytest.warns(UserWarning, match="in no class folder of Train2017, my-val are left out, 2 in all"):
        data = load_data(config)
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 4, "validation": 4}


def test_pictures_of_kinds_that_are_not_read_are_said(tmp_path):
    config = write_pictures(tmp_path, *(f"{label}/{i}.png" for label in "ab" for i in range(2)))
    for name in ("a/3.heic", "b/3.HEIC", "b/4.avif"):
        (tmp_path / name).write_bytes(b"")
    with pytest.warns(
        UserWarning, match="pictures that are not read are left out: 1 .avif, 2 .heic. Save them as PNG"
    ):
        assert len(load_data(config).splits["train"]) == 4


def test_splits_without_class_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has the folders test, train, but no class folders in them"):
        load_data(write_pictures(tmp_path, "train/1.png", "test/1.png"))


def test_lists_of_labels_are_multi_label(tmp_path):
    rows = {"image": [image(1), image(2)], "labels": [["cat"], ["dog", "cat"]]}
    features = datasets.Features({"image": datasets.Image(), "labels": datasets.Sequence(datasets.Value("string"))})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "train.parquet"))
    data = load_data(DataConfig(dataset=str(tmp_path)))
    assert data.multilabel and data.class_names == ("cat", "dog")
    assert [list(row) for row in data.splits["train"]["label"]] == [[1, 0], [1, 1]]


def test_columns_that_cannot_be_told_are_asked_for():
    two = datasets.Features({"a": datasets.Image(), "b": datasets.Image()})
    with pytest.raises(ValueError, match="name it with --image_column"):
        find_image_column(two)
    assert find_image_column(two, "b") == "b"
    with pytest.raises(ValueError, match="image_column is 'c'"):
        find_image_column(two, "c")
    with pytest.raises(ValueError, match="name it with --label_column"):
        find_label_column(two)


def test_data_sets_with_code_are_refused_with_the_remedy(tmp_path):
    (tmp_path / "flowers").mkdir()
    (tmp_path / "flowers" / "flowers.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ValueError, match=r"code of its own.*refs/convert/parquet.*--data_dir"):
        load_data(DataConfig(dataset=str(tmp_path / "flowers")))


def test_presets_without_a_place_on_the_hub_say_so():
    with pytest.raises(ValueError, match=r"voc2007 has no usual place.*--data_dir.*--hub_id"):
        load_data(DataConfig(dataset="voc2007"))
    with pytest.raises(ValueError, match="No dataset was given"):
        load_data(DataConfig())


def test_presets_take_another_hub_id(parquet):
    with pytest.warns(UserWarning, match="not the full set"):
        data = load_data(DataConfig(dataset="oxford_pets", hub_id=str(parquet)))
    assert data.name == "oxford_pets" and data.class_names == ("cat", "dog")


def test_digits_are_a_source():
    data = load_data(DataConfig(dataset="digits", shots=2), seed=3)
    assert len(data.splits["train"]) == 10 and data.class_names == tuple("56789")


@pytest.fixture
def folder_with_bad_images(tmp_path):
    for number in range(4):
        layouts.write_image(tmp_path / "train" / ("dog" if number == 3 else "cat") / f"{number}.jpg", number)
    whole = (tmp_path / "train" / "cat" / "0.jpg").read_bytes()
    (tmp_path / "train" / "cat" / "1.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "train" / "cat" / "2.jpg").write_bytes(b"no image at all")
    return tmp_path


def test_unreadable_images_are_named(folder_with_bad_images):
    data = load_data(DataConfig(dataset=str(folder_with_bad_images)))
    samples = ClassificationImages(data.splits["train"], data, red_of)
    for row, name in ((1, "1.jpg"), (2, "2.jpg")):
        with pytest.raises(ValueError, match=rf"Cannot read .*{name} \(row {row}\).*--skip_bad_images"):
            samples[row]


def test_bad_images_can_be_skipped(folder_with_bad_images):
    with pytest.warns(UserWarning, match=r"(?s)Left out 2 images.*1\.jpg.*2\.jpg"):
        data = load_data(DataConfig(dataset=str(folder_with_bad_images), skip_bad_images=True))
    samples = ClassificationImages(data.splits["train"], data, red_of)
    assert len([sample for sample in samples]) == 2


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    layouts.write_image(tmp_path / "train" / "dog" / "b.jpg", 0)
    (tmp_path / "train" / "cat").mkdir()
    Image.new("RGB", (30, 10)).save(tmp_path / "train" / "cat" / "a.jpg", exif=exif)
    data = load_data(DataConfig(dataset=str(tmp_path)))
    assert ClassificationImages(data.splits["train"], data, lambda picture: picture.width)[0]["pixel_values"] == 10


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"voc_labels": "both"}, "voc_labels is 'both'; it must be one of multi, single"),
        ({"validation_fraction": 1.5}, "validation_fraction is 1.5; it must be .* at least 0 and below 1"),
        ({"download": True}, "needs --data_dir"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**changes)


def test_settings_are_json():
    json.dumps(DataConfig().__dict__)
