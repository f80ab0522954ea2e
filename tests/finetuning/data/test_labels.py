"""Labels that cannot be are refused before anything trains, with the row named; only the label column is read."""

import io
import tarfile
import time

import datasets
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from mona_peft.finetuning.data.classification.dataset import ClassificationStream
from mona_peft.finetuning.data.sources.classification import DataConfig, load_data, require_training
from mona_peft.finetuning.data.sources.labels import encode_labels, find_class_names


def stored(count):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, format="PNG")
    return [{"bytes": buffer.getvalue(), "path": None}] * count


def write(folder, labels, kind, split="train", images=None):
    """A parquet split with these labels."""
    features = datasets.Features({"image": datasets.Image(decode=False), "label": kind})
    rows = {"image": images or stored(len(labels)), "label": labels}
    folder.mkdir(exist_ok=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(folder / f"{split}.parquet"))
    return str(folder)


INTEGER, STRING = datasets.Value("int64"), datasets.Value("string")
TWO = datasets.ClassLabel(names=["cat", "dog"])


@pytest.mark.parametrize(
    "labels, kind, message",
    [
        ([0, 1, 10**9], INTEGER, r"Row 2 of .*train has the label 1000000000\. .*1000000001 classes for 3 images"),
        ([0, 10**12, 1], INTEGER, r"Row 1 of .*train has the label 1000000000000"),
        ([0, None, 1], INTEGER, r"Row 1 of .*train has no label \(null\)"),
        ([0, 1, -1], INTEGER, r"Row 2 of .*train has the label -1, which is none of the 2 classes \(0, 1\)"),
        ([0, 1, -1], TWO, r"Row 2 of .*train has the label -1, which is none of the 2 classes \(cat, dog\)"),
        ([0, None, 1], TWO, r"Row 1 of .*train has no label"),
        ([0.0, 1.5, 1.0], datasets.Value("float64"), r"Row 0 of .*train has the label 0.0 of type double"),
        (["a", None, "b"], STRING, r"Row 1 of .*train has no label"),
        ([[0], [1, None]], datasets.Sequence(INTEGER), r"Row 1 of .*train has no label"),
        ([[0], None], datasets.Sequence(INTEGER), r"Row 1 of .*train has no label"),
        ([[0, 1], [2, -2]], datasets.Sequence(INTEGER), r"Row 1 of .*train has the label -2"),
        ([[0, 1, 2], [1, 0, 0]], datasets.Sequence(INTEGER), r"Row 1 of .*train lists a label twice: \[1, 0, 0\]"),
        ([[0.5], [1.0]], datasets.Sequence(datasets.Value("float32")), r"Row 0 of .*0\.5 of type float"),
        ([[[0]], [[1]]], datasets.Sequence(datasets.Sequence(INTEGER)), r"Row 0 of .*\[0\] of type list"),
    ],
)
def test_labels_that_cannot_be_are_refused_by_row(tmp_path, labels, kind, message):
    folder = write(tmp_path / "set", labels, kind)
    with pytest.raises(ValueError, match=message):
        load_data(DataConfig(dataset=folder))


def test_booleans_are_two_classes(tmp_path):
    data = load_data(DataConfig(dataset=write(tmp_path / "set", [True, False, True], datasets.Value("bool"))))
    assert data.class_names == ("False", "True") and list(data.splits["train"]["label"]) == [1, 0, 1]


def test_class_names_must_be_enough_and_different(tmp_path):
    three = datasets.ClassLabel(names=["cat", "dog", "fox"])
    folder = write(tmp_path / "set", [0, 1, 2], three)
    with pytest.raises(ValueError, match=r"Row 2 of .*label 2, which is none of the 2 classes \(cat, dog\)"):
        load_data(DataConfig(dataset=folder, class_names=["cat", "dog"]))
    with pytest.raises(ValueError, match="'cat' comes twice"):
        load_data(DataConfig(dataset=folder, class_names=["cat", "dog", "cat"]))
    assert load_data(DataConfig(dataset=folder, class_names=["a", "b", "c"])).class_names == ("a", "b", "c")


def test_a_class_that_training_lacks_is_named(tmp_path):
    write(tmp_path / "set", ["cat", "dog"], STRING)
    folder = write(tmp_path / "set", ["dog", "fox"], STRING, "test")
    with pytest.raises(ValueError, match=r"Row 1 of .*test has the label 'fox'.*--class_names"):
        load_data(DataConfig(dataset=folder))
    data = load_data(DataConfig(dataset=folder, class_names=["cat", "dog", "fox"]))
    assert list(data.splits["test"]["label"]) == [1, 2]


def test_a_split_without_any_label_is_left_out(tmp_path):
    write(tmp_path / "set", [0, 1], TWO)
    folder = write(tmp_path / "set", [-1, -1], TWO, "test")
    with pytest.warns(UserWarning, match="No row of .*test has a label"):
        assert set(load_data(DataConfig(dataset=folder)).splits) == {"train"}


def test_a_test_split_alone_can_be_predicted_but_not_trained_on(tmp_path):
    folder = write(tmp_path / "set", [0, 1], TWO, "test")
    data = load_data(DataConfig(dataset=folder))
    with pytest.raises(ValueError, match=r"no split to train on, only test.*--train_split"):
        require_training(data)
    for changes in ({"validation_fraction": 0.5}, {"streaming": True}):
        with pytest.raises(ValueError, match=r"no split to train on, only test"):
            require_training(load_data(DataConfig(dataset=folder, **changes)))


def test_a_missing_image_is_named_or_left_out(tmp_path):
    images = [*stored(2), None, *stored(1)]
    folder = write(tmp_path / "set", [0, 1, 0, 1], TWO, images=images)
    with pytest.raises(ValueError, match=r"Row 2 of .*train has no image \(null\).*--skip_bad_images"):
        load_data(DataConfig(dataset=folder))
    with pytest.warns(UserWarning, match=r"(?s)Left out 1 images.*row 2"):
        data = load_data(DataConfig(dataset=folder, skip_bad_images=True))
    assert list(data.splits["train"]["label"]) == [0, 1, 1]


def test_images_outside_the_folder_are_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    inside = tmp_path / "set"
    inside.mkdir()
    Image.new("RGB", (4, 4)).save(inside / "own.png")
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    for path in (tmp_path / "secret.png", inside / ".." / "secret.png", inside / "link.png"):
        images = [{"bytes": None, "path": str(one)} for one in (inside / "own.png", path)]
        folder = write(inside, [0, 1], TWO, images=images)
        with pytest.raises(ValueError, match=r"Row 1 of .*train names the file .*not inside"):
            load_data(DataConfig(dataset=folder))
        data = load_data(DataConfig(dataset=folder, streaming=True))
        with pytest.raises(ValueError, match=r"Row 1 of .*train names the file .*not inside"):
            list(data.splits["train"])


def test_the_labels_of_a_stream_are_checked_as_they_come(tmp_path):
    folder = write(tmp_path / "set", [0, 1, -1], TWO)
    data = load_data(DataConfig(dataset=folder, streaming=True))
    stream = ClassificationStream(data.splits["train"], data, lambda image: image.width, shuffle_buffer=1, seed=0)
    with pytest.raises(ValueError, match=r"Row 2 of .*train has the label -1"):
        list(stream)


def cut(path, share=0.6):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def write_tar(path, count=12):
    with tarfile.open(path, "w") as archive:
        for number in range(count):
            for suffix, content in (("png", stored(1)[0]["bytes"]), ("cls", str(number % 2).encode())):
                member = tarfile.TarInfo(f"{number:03d}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("streaming", [False, True])
def test_shards_that_are_cut_off_are_named(tmp_path, streaming):
    write(tmp_path / "parquet", [0, 1] * 20, TWO)
    cut(tmp_path / "parquet" / "train.parquet")
    with pytest.raises(ValueError, match=r"train\.parquet is damaged or cut off"):
        load_data(DataConfig(dataset=str(tmp_path / "parquet"), streaming=streaming))
    (tmp_path / "tar").mkdir()
    whole = tmp_path / "tar" / "train.tar"
    write_tar(whole)
    size = whole.stat().st_size
    for share in (0.1, 0.3, 0.501, 0.55):
        write_tar(whole)
        cut(whole, share)
        if int(size * share) % 512:  # a cut between two members cannot be told from an end
            with pytest.raises(ValueError, match=r"train\.tar is damaged or cut off"):
                load_data(DataConfig(dataset=str(tmp_path / "tar"), streaming=streaming, class_names=["0", "1"]))


def test_eight_thousand_labels_load_at_once_and_no_image_is_read(tmp_path):
    unread = [{"bytes": b"no image", "path": None}] * 8000
    labels = np.random.default_rng(0).integers(0, 100, 8000).tolist()
    folder = write(tmp_path / "set", [str(label) for label in labels], STRING, images=unread)
    load_data(DataConfig(dataset=folder))  # `datasets` writes its cache
    start = time.process_time()
    split = datasets.load_dataset(folder)["train"]
    alone = time.process_time() - start
    start = time.process_time()
    data = load_data(DataConfig(dataset=folder))
    assert time.process_time() - start < alone + 1
    assert [data.class_names[label] for label in data.splits["train"]["label"]] == list(split["label"])


def test_columns_are_encoded_as_their_values_one_by_one():
    rng = np.random.default_rng(0)
    names = [f"class {number}" for number in range(7)]
    rows = [sorted({names[n] for n in rng.integers(0, 7, rng.integers(0, 4))}) for _ in range(40)]
    for column in (pa.array(rows), pa.chunked_array([rows[:11], rows[11:]]).combine_chunks()):
        encoded = encode_labels(column, names, "rows")
        assert [[name for name, here in zip(names, row, strict=True) if here] for row in encoded] == rows
    single = [row[0] for row in rows if row]
    assert [names[number] for number in encode_labels(pa.array(single), names, "rows")] == single
    split = datasets.Dataset.from_dict({"label": rows})
    assert find_class_names(split, "label") == names
