import numpy as np
import pytest
from PIL import Image, ImageOps, features

from mona_peft.finetuning.data.dense.segmentation import load_folders, pair_folders, reduce_zero, without_unreadable
from mona_peft.finetuning.data.embedded.scenes import SEMANTIC_NAMES, SceneSettings, compose_scene
from mona_peft.finetuning.data.images import open_image, to_rgb
from mona_peft.finetuning.data.sources.ade20k import (
    find_split_folders,
    load_ade20k,
    load_hub_segmentation,
    scene_segmentation,
)
from mona_peft.finetuning.data.sources.config import SegmentationDataConfig
from mona_peft.finetuning.data.sources.dense import load_segmentation
from tests.support.datasets import write_ade

SIZES = {"train": 4, "validation": 3}
SCENES = SceneSettings(size=64)


def load(root, names, reduce_zero_label=False, exif_frame=None):
    return load_folders(root, names, find_split_folders(root), reduce_zero_label, exif_frame)


@pytest.fixture(scope="module")
def data():
    return scene_segmentation(SIZES, SCENES)


def test_ade_round_trip_leaves_the_zero_label_out(data, tmp_path):
    write_ade(data, tmp_path)
    stored = np.asarray(Image.open(tmp_path / "annotations" / "training" / "ADE_00000001.png"))
    labels = compose_scene("train", 0, SCENES).semantic
    assert np.array_equal(stored == 0, labels == 255) and (stored == 0).any()
    assert np.array_equal(stored[stored > 0] - 1, labels[labels != 255])
    with pytest.warns(UserWarning, match="20210"):
        loaded = load_ade20k(tmp_path)
    assert loaded.class_names == SEMANTIC_NAMES
    for split, size in SIZES.items():
        assert len(loaded.splits[split]) == size
        for one, two in zip(data.splits[split], loaded.splits[split], strict=True):
            for first, second in zip(data.read(one), loaded.read(two), strict=True):
                assert np.array_equal(np.asarray(first), np.asarray(second))


def test_reduce_zero_keeps_what_was_left_out():
    assert reduce_zero(np.array([0, 1, 150, 255], np.uint8)).tolist() == [255, 0, 149, 255]


def test_any_pair_of_folders(tmp_path):
    for part in ("images/train", "annotations/train"):
        (tmp_path / part).mkdir(parents=True)
    Image.new("RGB", (4, 3), (10, 20, 30)).save(tmp_path / "images/train/a.jpg")
    palette = Image.fromarray(np.array([[0, 1, 1, 255]] * 3, np.uint8)).convert("P")
    palette.putdata([0, 1, 1, 255] * 3)
    palette.save(tmp_path / "annotations/train/a.png")
    data = load(tmp_path, ("ground", "sky"))
    image, labels = data.read(data.splits["train"][0])
    assert image.size == (4, 3) and labels.tolist() == [[0, 1, 1, 255]] * 3
    with pytest.raises(ValueError, match="label 1"):
        fewer = load(tmp_path, ("ground",))
        fewer.read(fewer.splits["train"][0])
    Image.new("RGB", (4, 3)).save(tmp_path / "images/train/b.jpg")
    with pytest.raises(FileNotFoundError, match="b.jpg has no label map"):
        pair_folders(tmp_path / "images/train", tmp_path / "annotations/train")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("a.bmp", ValueError, "a.bmp and .*a.png are label maps of one image; keep one of them"),
        ("a_mask.png", FileNotFoundError, "1 label maps have no image in .*images, such as .*a_mask.png"),
        ("lost.png", FileNotFoundError, "1 label maps have no image in .*images, such as .*lost.png"),
        ("a.jpg", ValueError, "The label map .*a.jpg is a JPEG"),
    ],
)
def test_label_maps_that_are_of_no_use_are_refused(tmp_path, name, error, message):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
        Image.new("L", (4, 3)).save(tmp_path / part / "a.png")
    assert len(pair_folders(tmp_path / "images", tmp_path / "masks")) == 1
    Image.new("L", (4, 3)).save(tmp_path / "masks" / name)
    with pytest.raises(error, match=message):
        pair_folders(tmp_path / "images", tmp_path / "masks")


@pytest.mark.parametrize(
    "suffix", ["jfif", pytest.param("avif", marks=pytest.mark.skipif(not features.check("avif"), reason="no AVIF"))]
)
def test_pictures_of_less_usual_kinds(tmp_path, suffix):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / "images" / f"a.{suffix}")
    Image.new("L", (4, 3)).save(tmp_path / "masks" / "a.png")
    (tmp_path / "images" / "b.heic").write_bytes(b"")
    with pytest.warns(UserWarning, match="images: pictures that are not read are left out: 1 .heic. Save them as PNG"):
        (pair,) = pair_folders(tmp_path / "images", tmp_path / "masks")
    assert to_rgb(open_image(pair.image)).size == (4, 3)


def test_class_names_are_all_different():
    with pytest.raises(ValueError, match="The class name 'a' comes twice"):
        SegmentationDataConfig(dataset="folder", class_names=["a", "b", "a"])


def test_bad_files_are_named_or_left_out(data, tmp_path):
    write_ade(data, tmp_path)
    bad = tmp_path / "annotations" / "training" / "ADE_00000002.png"
    bad.write_bytes(b"no image")
    loaded = load(tmp_path, data.class_names, reduce_zero_label=True)
    with pytest.raises(ValueError, match="ADE_00000002.png"):
        loaded.read(loaded.splits["train"][1])
    kept, listed = without_unreadable(loaded)
    assert listed == [bad] and len(kept.splits["train"]) == SIZES["train"] - 1
    Image.new("RGB", (64, 64)).save(bad)
    with pytest.raises(ValueError, match="one class number a pixel"):
        loaded.read(loaded.splits["train"][1])
    Image.new("L", (32, 64)).save(bad)
    with pytest.raises(ValueError, match="ADE_00000002.png has 64x64 pixels, its annotations are for 32x64"):
        loaded.read(loaded.splits["train"][1])


def test_labels_below_zero_and_too_many_classes_are_refused(tmp_path):
    for part in ("images/train", "annotations/train"):
        (tmp_path / part).mkdir(parents=True)
    Image.new("RGB", (2, 1)).save(tmp_path / "images/train/a.png")
    label_map = tmp_path / "annotations/train/a.tif"
    Image.fromarray(np.array([[0, -3]], np.int32)).save(label_map)
    data = load(tmp_path, ("ground", "sky"))
    with pytest.raises(ValueError, match=r"a\.tif has the label -3, but there are 2 classes"):
        data.read(data.splits["train"][0])
    with pytest.raises(ValueError, match="one would have the label 255"):
        load(tmp_path, [str(number) for number in range(256)])


TURNED = np.arange(12, dtype=np.uint8).reshape(3, 4)


def write_turned(root, orientation, labels):
    """An image of grey values 0 to 11 that EXIF data turn, and its label map as it is."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    for part in ("images/train", "annotations/train"):
        (root / part).mkdir(parents=True, exist_ok=True)
    Image.fromarray(TURNED[: labels.shape[0], :4]).save(root / "images/train/a.png", exif=exif)
    Image.fromarray(np.ascontiguousarray(labels)).save(root / "annotations/train/a.png")
    return [str(number) for number in range(12)]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_label_maps_turn_with_their_images(tmp_path, orientation):
    """Each pixel's label is its own grey value, so image and labels must agree, however both were stored."""
    for frame in ("stored", "upright"):
        exif = Image.Exif()
        exif[0x0112] = orientation
        upright = Image.fromarray(TURNED)
        upright.getexif()[0x0112] = orientation
        labels = TURNED if frame == "stored" else np.asarray(ImageOps.exif_transpose(upright))
        names = write_turned(tmp_path, orientation, labels if frame == "stored" else TURNED)
        Image.fromarray(np.ascontiguousarray(labels)).save(tmp_path / "annotations/train/a.png")
        told = orientation == 1 or orientation > 4  # turned by a quarter, and not square
        data = load(tmp_path, names, exif_frame=None if told else frame)
        image, read = data.read(data.splits["train"][0])
        assert image.size == ((3, 4) if orientation > 4 else (4, 3))
        assert np.array_equal(np.asarray(image)[..., 0], read)
        if not told:
            unknown = load(tmp_path, names)
            with pytest.raises(ValueError, match=r"EXIF orientation.*does not tell.*--exif_frame stored"):
                unknown.read(unknown.splits["train"][0])


def test_hub_columns(data, tmp_path):
    from datasets import Dataset, Features
    from datasets import Image as ImageFeature

    samples = [data.read(sample) for sample in data.splits["train"]]
    stored = [Image.fromarray(np.where(labels == 255, 0, labels + 1).astype(np.uint8)) for _, labels in samples]
    rows = Dataset.from_dict(
        {"image": [image for image, _ in samples], "annotation": stored},
        features=Features({"image": ImageFeature(), "annotation": ImageFeature()}),
    )
    rows.to_parquet(str(tmp_path / "data" / "train.parquet"))
    loaded = load_hub_segmentation(str(tmp_path / "data"), data.class_names, reduce_zero_label=True)
    for sample, (image, labels) in zip(loaded.splits["train"], samples, strict=True):
        read = loaded.read(sample)
        assert np.array_equal(np.asarray(read[0]), np.asarray(image)) and np.array_equal(read[1], labels)
    named = SegmentationDataConfig(dataset="hub", hub_id=str(tmp_path / "data"), class_names=["a", "b"])
    assert load_segmentation(named).class_names == ("a", "b")
    with pytest.raises(ValueError, match="needs --class_names, by label; a copy of ADE20K"):
        load_segmentation(SegmentationDataConfig(dataset="hub", hub_id=str(tmp_path / "data")))
    ade = load_segmentation(SegmentationDataConfig(dataset="ade20k", hub_id=str(tmp_path / "data")))
    assert len(ade.class_names) == 150 and ade.reduce_zero_label
    with pytest.raises(ValueError, match="mask"):
        load_hub_segmentation(str(tmp_path / "data"), data.class_names, True, label_column="mask")
