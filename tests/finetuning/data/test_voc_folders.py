"""VOC's annotations with classes of one's own: found in the files, or read from a file of names, and said."""

import pytest
from PIL import Image

from mona_peft.finetuning.data.embedded.scene_objects import scene_objects
from mona_peft.finetuning.data.embedded.scenes import SceneSettings
from mona_peft.finetuning.data.sources.config import ObjectDataConfig
from mona_peft.finetuning.data.sources.dense import load_objects
from mona_peft.finetuning.data.sources.voc import VOC_CLASSES
from tests.support.datasets import write_voc

SIZES = {"train": 4, "validation": 2, "test": 3}


@pytest.fixture(scope="module")
def data():
    return scene_objects(SIZES, SceneSettings(size=48))


def load(root, **settings):
    return load_objects(ObjectDataConfig(dataset=str(root), **settings))


def boxes(data, split):
    return [[(data.categories[a["category_id"]], *a["bbox"]) for a in one.annotations] for one in data.splits[split]]


@pytest.fixture
def written(data, tmp_path):
    write_voc(data, tmp_path)
    return (tmp_path / "VOC2007").rename(tmp_path / "things")


def test_classes_are_found_in_the_files_and_said(data, written, capsys):
    loaded = load(written)
    assert loaded.class_names == tuple(sorted(data.class_names))
    assert {split: boxes(loaded, split) for split in SIZES} == {split: boxes(data, split) for split in SIZES}
    assert "read as Pascal VOC: 4 train, 2 validation, 3 test images, 5 classes (" in capsys.readouterr().out


def test_a_file_or_the_command_names_the_classes(data, written):
    names = list(data.class_names)[::-1]
    assert load(written, class_names=[*names, "none"]).class_names == (*names, "none")
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::", *(f"{name}:9,9,9::" for name in names)]
    (written / "labelmap.txt").write_text("\n".join(lines))
    assert load(written).class_names == tuple(names)
    (written / "labelmap.txt").write_text("nothing:0,0,0::\n")
    with pytest.raises(ValueError, match="has an object of class .*; known are nothing"):
        load(written)


def test_years_of_vocs_own_classes_keep_its_twenty(data, written, tmp_path):
    own = load(written.rename(tmp_path / "VOC2012").parent)
    assert own.class_names == tuple(sorted(data.class_names))  # a year, but other classes
    for file in (tmp_path / "VOC2012" / "Annotations").iterdir():
        text = file.read_text()
        for name, official in zip(data.class_names, VOC_CLASSES, strict=False):
            text = text.replace(f"<name>{name}<", f"<name>{official}<")
        file.write_text(text)
    assert load(tmp_path).class_names == VOC_CLASSES


def test_roboflows_export_has_them_among_the_pictures(data, written, tmp_path):
    root = tmp_path / "export"
    for split, short in (("train", "train"), ("validation", "valid"), ("test", "test")):
        (root / short).mkdir(parents=True)
        for name in (written / "ImageSets" / "Main" / f"{split}.txt").read_text().split():
            image = Image.open(written / "JPEGImages" / f"{name}.png")
            image.save(root / short / f"{name}.png")
            text = (written / "Annotations" / f"{name}.xml").read_text()
            (root / short / f"{split}{name}.xml").write_text(text)
            (root / short / f"{name}.png").rename(root / short / f"{split}{name}.png")  # not what <filename> says
    loaded = load(root)
    assert {split: sorted(boxes(loaded, split)) for split in SIZES} == {s: sorted(boxes(data, s)) for s in SIZES}


def test_without_image_sets_everything_trains_and_pictures_without_a_file_have_no_objects(written):
    for file in (written / "ImageSets" / "Main").iterdir():
        file.unlink()
    before = len(list((written / "JPEGImages").iterdir()))
    Image.new("RGB", (30, 20)).save(written / "JPEGImages" / "empty.jpg")
    loaded = load(written)
    assert list(loaded.splits) == ["train"] and len(loaded.splits["train"]) == before + 1
    (empty,) = (one for one in loaded.splits["train"] if not one.annotations)
    assert (empty.width, empty.height) == (30, 20) and empty.source.name == "empty.jpg"
    (written / "JPEGImages" / "empty.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"Cannot read .*empty\.jpg"):
        load(written)
    assert len(load(written, skip_bad_images=True).splits["train"]) == before


@pytest.mark.parametrize("annotated", [True, False])
def test_two_annotations_of_one_picture_are_refused(written, annotated):
    """Whether the one whose picture it is has an annotation of its own or none."""
    train = written / "ImageSets" / "Main" / "train.txt"
    one, other = train.read_text().split()[:2]
    file = written / "Annotations" / f"{one}.xml"
    file.write_text(file.read_text().replace(f"{one}.png", f"{other}.png"))
    if not annotated:
        for each in train.parent.iterdir():
            each.unlink()
        (written / "Annotations" / f"{other}.xml").unlink()
    with pytest.raises(ValueError, match=f"{one} and {other} of .*Annotations are both of the picture .*{other}.png"):
        load(written)
