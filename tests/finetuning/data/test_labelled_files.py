"""CSV and JSON-lines files of paths and labels, and what is wrong with a line."""

import json

import pytest
from PIL import Image

from mona_peft.finetuning.data.sources.classification import load_data
from mona_peft.finetuning.data.sources.config import DataConfig


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "pictures").mkdir()
    for number in range(6):
        Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path


def write(path, lines):
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def labels(data):
    return {split: list(rows["label"]) for split, rows in data.splits.items()}


def test_a_file_with_a_column_of_splits(pictures, capsys):
    splits = ["train", "train", "TRAIN", "val", "test", "test"]
    names = ["cat", "dog", "cat", "dog", "cat", "dog"]
    lines = [f"pictures/{n}.png,{name},{split}" for n, (name, split) in enumerate(zip(names, splits, strict=True))]
    file = write(pictures / "pets.csv", ["path,label,split", *lines])
    data = load_data(DataConfig(dataset=str(file)))
    assert data.class_names == ("cat", "dog") and not data.multilabel
    assert labels(data) == {"train": [0, 1, 0], "validation": [1], "test": [0, 1]}
    assert data.splits["train"][0]["image"]["path"] == str(pictures / "pictures" / "0.png")
    said = capsys.readouterr().out
    assert (
        "is read as paths and labels of pets.csv: 3 train, 1 validation, 2 test images, 2 classes (cat, dog)." in said
    )


def test_a_folder_with_a_file_a_split_whose_pictures_have_no_suffix(pictures):
    write(pictures / "train.csv", ["id;species", "pictures/0;wren", "pictures/1;robin"])
    write(pictures / "test.tsv", ["id\tspecies", "pictures/2\towl"])
    (pictures / "test.tsv").replace(pictures / "validation.tsv")
    data = load_data(DataConfig(dataset=str(pictures), label_column="species"))
    assert data.class_names == ("owl", "robin", "wren")  # of all splits
    assert labels(data) == {"train": [2, 1], "validation": [0]}


@pytest.mark.parametrize("kind", ["divided", "lists", "columns"])
def test_several_labels_a_picture(pictures, kind):
    if kind == "divided":
        lines = ["file_name,labels", "pictures/0.png,sea;sun", "pictures/1.png,sun", "pictures/2.png,"]
        file = write(pictures / "labels.csv", lines[:3])
    elif kind == "lists":
        rows = [{"image": "pictures/0.png", "tags": ["sea", "sun"]}, {"image": "pictures/1.png", "tags": ["sun"]}]
        file = write(pictures / "labels.jsonl", map(json.dumps, rows))
    else:
        file = write(pictures / "labels.csv", ["filename,sea,sun", "pictures/0.png,1,1", "pictures/1.png,0,1"])
    data = load_data(DataConfig(dataset=str(file), label_column="tags" if kind == "lists" else None))
    assert data.multilabel and data.class_names == ("sea", "sun")
    assert labels(data) == {"train": [[1, 1], [0, 1]]}
    assert (
        data.fingerprint()
        == load_data(DataConfig(dataset=str(file), label_column="tags" if kind == "lists" else None)).fingerprint()
    )


def test_numbers_are_numbers(pictures):
    file = write(pictures / "labels.csv", ["path,label", "pictures/0.png,10", "pictures/1.png,2"])
    data = load_data(DataConfig(dataset=str(file)))
    assert len(data.class_names) == 11 and labels(data) == {"train": [10, 2]}
    named = load_data(DataConfig(dataset=str(file), class_names=[f"digit {n}" for n in range(11)]))
    assert named.class_names[10] == "digit 10" and labels(named) == {"train": [10, 2]}


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        (
            "a.csv",
            ["path,label", "pictures/0.png,cat", "pictures/9.png,dog"],
            r"a\.csv, line 3 lists 'pictures/9\.png'",
        ),
        ("a.csv", ["path,label", "pictures/0.png,cat,black"], r"a\.csv, line 2 has 3 values, .* names 2 columns"),
        ("a.csv", ["path,label", "pictures/0.png,"], r"a\.csv, line 2 has the label ''"),
        ("a.csv", ["path,label", "../../../etc/passwd,cat"], r"a\.csv, line 2 names the file .*not inside"),
        ("a.csv", ["path,label,split", "pictures/0.png,cat,later"], r"a\.csv, line 2 has the split 'later'"),
        ("a.csv", ["path,label"], r"a\.csv lists no image"),
        ("a.csv", ["path,colour,size", "pictures/0.png,red,3"], r"a\.csv has no column of labels among path, colour"),
        ("a.csv", ["path,cat,dog", "pictures/0.png,1,0", "pictures/1.png,,1"], r"a\.csv, line 3 has '' for .*'cat'"),
        (
            "a.csv",
            ["path,cat,dog", "pictures/0.png,1,0", "pictures/1.png,1,01"],
            r"a\.csv, line 3 has '01' for .*'dog'",
        ),
        ("a.csv", ["picture,label", "pictures/0.png,cat"], r"a\.csv has no column of paths among picture, label"),
        ("a.jsonl", ['{"path": "pictures/0.png", "label": 0}', "{"], r"a\.jsonl, line 2 is no JSON"),
        ("a.jsonl", ['{"path": "pictures/0.png", "label": 1.5}'], r"a\.jsonl, line 1 has the label 1\.5"),
        ("a.jsonl", ['{"label": "cat", "path": 3}'], r"a\.jsonl, line 1 has no path in the column 'path'"),
    ],
)
def test_a_bad_line_is_named(pictures, name, lines, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_data(DataConfig(dataset=str(write(pictures / name, lines))))


def test_a_class_beyond_the_given_names_and_missing_pictures(pictures):
    file = write(pictures / "a.csv", ["path,label", "pictures/0.png,cat", "pictures/8.png,cow"])
    with pytest.raises(ValueError, match=r"a\.csv, line 3 has the label 'cow', which is none of cat, dog"):
        load_data(DataConfig(dataset=str(file), class_names=["cat", "dog"]))
    with pytest.warns(UserWarning, match=r"(?s)Left out 1 images .*8\.png"):
        data = load_data(DataConfig(dataset=str(file), skip_bad_images=True))
    assert labels(data) == {"train": [0]}
    with pytest.raises(ValueError, match="is a list of files, which is not streamed"):
        load_data(DataConfig(dataset=str(file), streaming=True))
