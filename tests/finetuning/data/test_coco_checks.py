"""COCO and VOC files that cannot be: refused when they are loaded, before pycocotools or a reader meets them."""

import copy
import json
import os

import numpy as np
import pytest
from PIL import Image, ImageOps
from pycocotools import mask as rle

from mona_peft.finetuning.data.dense.masks import decode_mask, encode_mask, run_lengths
from mona_peft.finetuning.data.dense.objects import measured
from mona_peft.finetuning.data.dense.targets import training_targets
from mona_peft.finetuning.data.sources.coco import load_coco, read_instances
from mona_peft.finetuning.data.sources.voc_detection import load_voc_detection

HEIGHT, WIDTH = 30, 40
LAYOUT = {"train": ("instances.json", "images")}


def content(segmentation=None, **changes):
    annotation = {"id": 7, "image_id": 1, "category_id": 3, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
    annotation |= {"segmentation": segmentation} if segmentation is not None else {}
    annotation |= changes
    return {
        "images": [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
        "annotations": [annotation],
        "categories": [{"id": 3, "name": "three"}],
    }


def load(folder, written):
    (folder / "images").mkdir(exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "images" / "a.png")
    (folder / "instances.json").write_text(json.dumps(written))
    return load_coco(folder, LAYOUT)


def uncompressed(counts, size=(HEIGHT, WIDTH)):
    return {"size": list(size), "counts": counts}


def compressed(counts):
    encoded = rle.frPyObjects(uncompressed(counts), HEIGHT, WIDTH)
    return {"size": [HEIGHT, WIDTH], "counts": encoded["counts"].decode()}


@pytest.mark.parametrize(
    "segmentation, message",
    [
        (uncompressed([1000, 100]), "RLE counts for 1100 pixels on an image of 30 x 40"),
        (uncompressed([1]), "RLE counts for 1 pixels"),
        (uncompressed([0, 1300, -100]), "no run lengths"),
        (uncompressed([0, 1200.0]), "no run lengths"),
        (uncompressed([True, 1199]), "no run lengths"),
        (uncompressed("no"), "RLE counts"),
        (uncompressed({}), "no run lengths"),
        (uncompressed([1200], (40, 30)), r"RLE of size \[40, 30\] on an image of \[30, 40\]"),
        ({"counts": [1200]}, "RLE of size None"),
        ({"size": [30, 40], "counts": "z" * 20}, "cannot be read"),
        ({"size": [30, 40], "counts": "P" * 20}, "cannot be read"),
        ({"size": [30, 40], "counts": "é"}, "cannot be read"),
        ([[1, 1, 5, 5, 9]], "5 coordinates, an odd number"),
        ([[1, 1, 5, 5, float("nan"), 2]], "coordinates that cannot be"),
        ([[1, 1, 5, 5, float("inf"), 2]], "coordinates that cannot be"),
        ([[1, 1, 5, 5, 1e9, 2]], "coordinates that cannot be"),
        ([[1, 1, 5, 5, 10**400, 2]], "coordinates that cannot be"),
        ([[1, 1, 5, 5, "9", 2]], "coordinates that cannot be"),
        ([[[1, 1], [5, 5]]], "coordinates that cannot be"),
        ([1, 1, 5, 5, 9, 2], "a polygon that is no list"),
        ("1 1 5 5", "neither a list of polygons nor an RLE"),
        ({"size": [30, 40]}, "neither a list of polygons nor an RLE"),
    ],
)
def test_a_segmentation_that_cannot_be_is_refused_when_the_file_is_loaded(tmp_path, segmentation, message):
    with pytest.raises(ValueError, match=f"instances.json, image 'a.png': .*annotation 7.*{message}"):
        load(tmp_path, content(segmentation))
    with pytest.raises(ValueError, match=message):  # wherever else it comes from
        decode_mask({"id": 7, "segmentation": segmentation}, HEIGHT, WIDTH)


@pytest.mark.parametrize("counts", [[1000, 100], [1], [1300], [0, 5, 5000]])
def test_the_counts_of_compressed_masks_must_add_up_too(tmp_path, counts):
    with pytest.raises(ValueError, match=f"RLE counts for {sum(counts)} pixels"):
        load(tmp_path, content(compressed(counts)))


def test_compressed_run_lengths_are_those_that_pycocotools_wrote():
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = np.repeat(rng.random((7, 9)) < rng.random(), rng.integers(1, 40), axis=rng.integers(0, 2))
        flat = mask.ravel(order="F")
        edges = np.flatnonzero(np.diff(flat, prepend=False, append=not flat[-1]))
        assert run_lengths(encode_mask(mask)["counts"]) == np.diff(edges, prepend=0).tolist()


@pytest.mark.parametrize("image_id", ["1", 77, None])
def test_an_annotation_of_no_image_is_refused(tmp_path, image_id):
    with pytest.raises(
        ValueError, match=f"instances.json has .*1 in all, .*annotation 7 with the image_id {image_id!r}"
    ):
        load(tmp_path, content(image_id=image_id))


@pytest.mark.parametrize(
    ("id_", "name", "message"),
    [
        (4, "three", "The categories 3 and 4 of .* are both called 'three'"),
        (3, "four", "instances.json has two categories of one id"),
    ],
)
def test_two_categories_of_one_name_or_id_are_refused(tmp_path, id_, name, message):
    written = content()
    written["categories"].append({"id": id_, "name": name})
    with pytest.raises(ValueError, match=message):
        load(tmp_path, written)


def test_good_segmentations_are_what_they_were(tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[3:9, 4:12] = True
    triangle = [1.5, 2, 20, 2.25, 9, 25]
    beyond = [-5, -5, 60, -5, 60, 50]
    cases = [encode_mask(mask), [triangle], [triangle, beyond], [], [[]], [[1, 1, 9, 9]]]
    expected = [mask, *(rle.decode(rle.merge(rle.frPyObjects(p, HEIGHT, WIDTH))) for p in cases[1:3])]
    expected += [np.zeros((HEIGHT, WIDTH))] * 3
    for segmentation, wanted in zip(cases, expected, strict=True):
        (image,) = load(tmp_path, content(segmentation)).splits["train"]
        assert np.array_equal(decode_mask(image.annotations[0], HEIGHT, WIDTH), wanted)


def test_evaluation_measures_the_masks_that_train(tmp_path):
    """pycocotools itself takes a polygon of two points for a box."""
    (image,) = load(tmp_path, content([[1, 1, 9, 9], [1, 1, 20, 1, 20, 20]])).splits["train"]
    (trained,) = training_targets(image, (3,), with_masks=True).masks
    (annotation,) = measured(image, with_masks=True).annotations
    assert np.array_equal(rle.decode(annotation["segmentation"]), trained)
    written = content([[1, 1, 20, 1, 20, 20]])
    del written["annotations"][0]["area"]
    (image,) = load(tmp_path, written).splits["train"]
    assert measured(image, with_masks=False).annotations[0]["area"] == 81
    assert measured(image, with_masks=True).annotations[0]["area"] == decode_mask(image.annotations[0], 30, 40).sum()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"bbox": [1, 1, 9]}, "bbox"),
        ({"bbox": None}, "bbox"),
        ({"bbox": [1, 1, -9, 9]}, "bbox"),
        ({"bbox": [1, float("nan"), 9, 9]}, "bbox"),
        ({"bbox": [1, "1", 9, 9]}, "bbox"),
        ({"category_id": 4}, "category 4, which is unknown; known are 3"),
        ({"area": "81"}, "area '81'"),
    ],
)
def test_boxes_categories_and_areas_are_checked(tmp_path, changes, message):
    with pytest.raises(ValueError, match=f"image 'a.png': annotation 7 has the {message}"):
        load(tmp_path, content(**changes))


@pytest.mark.parametrize("field, value", [("height", 0), ("width", 40.5), ("height", "30"), ("id", None)])
def test_sizes_and_ids_are_checked(tmp_path, field, value):
    written = content()
    written["annotations"] = []
    written["images"][0][field] = value
    with pytest.raises(ValueError, match=f"image 'a.png': its {field} is {value!r}"):
        load(tmp_path, written)


def test_two_images_of_one_id_are_refused(tmp_path):
    written = content()
    written["images"] *= 2
    with pytest.raises(ValueError, match="two images of one id"):
        load(tmp_path, written)


@pytest.fixture
def outside(tmp_path):
    """A data folder, and an image outside of it that files in it name in several ways."""
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "secret.png")
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    (root / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "images" / "up").symlink_to(tmp_path)
    os.mkfifo(root / "images" / "pipe.png")
    return root


NAMES = [
    ("../../secret.png", "not inside"),
    ("{root}/../secret.png", "not inside"),
    ("link.png", "not inside"),
    ("up/secret.png", "not inside"),
    ("/dev/zero", "not inside"),
    ("pipe.png", "no regular file"),
    ("", "no file name"),
    (7, "no file name"),
    ("a\0b", "no file name"),
]


@pytest.mark.parametrize("name, message", NAMES)
def test_coco_images_stay_inside_their_folder(outside, name, message):
    written = content()
    written["images"][0]["file_name"] = name.format(root=outside) if isinstance(name, str) else name
    with pytest.raises(ValueError, match=f"instances.json names .*{message}"):
        load(outside, written)


@pytest.mark.parametrize("name, message", NAMES[:6])
def test_voc_images_stay_inside_their_folder(outside, name, message):
    folder = outside / "VOC2007"
    (folder / "Annotations").mkdir(parents=True)
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (outside / "images").rename(folder / "JPEGImages")
    (folder / "ImageSets/Main/test.txt").write_text("1\n")
    name = name.format(root=outside).replace("../../", "../../../")
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
    (folder / "Annotations/1.xml").write_text(f"<annotation><filename>{name}</filename>{size}</annotation>")
    with pytest.raises(ValueError, match=rf"1\.xml names .*{message}"):
        load_voc_detection(outside, {"test": (("2007", "test"),)})
    (folder / "ImageSets/Main/test.txt").write_text("../../1\n")
    with pytest.raises(ValueError, match=r"test\.txt names .*not inside"):
        load_voc_detection(outside, {"test": (("2007", "test"),)})


def test_links_that_a_user_or_the_hub_makes_are_followed(tmp_path):
    """A linked image folder, and a snapshot of the Hub's cache, whose files are links to its blobs."""
    (tmp_path / "disk").mkdir()
    load(tmp_path / "disk", content())
    (tmp_path / "linked").symlink_to(tmp_path / "disk")
    assert load_coco(tmp_path / "linked", LAYOUT).splits["train"][0].read().size == (WIDTH, HEIGHT)
    snapshot, blobs = tmp_path / "datasets--a" / "snapshots" / "0", tmp_path / "datasets--a" / "blobs"
    (snapshot / "images").mkdir(parents=True)
    blobs.mkdir()
    (tmp_path / "disk" / "images" / "a.png").rename(blobs / "hash")
    (snapshot / "images" / "a.png").symlink_to("../../../blobs/hash")
    (snapshot / "instances.json").write_text(json.dumps(content()))
    assert load_coco(snapshot, LAYOUT).splits["train"][0].read().size == (WIDTH, HEIGHT)


PATCH = (5, 3, 4, 2)  # x, y, width, height of a white patch on the stored image


def write_turned(folder, orientation, frame, size=(20, 12)):
    """A white patch on a black image that EXIF data turn, annotated on the image as it is stored or upright."""
    pixels = np.zeros((size[1], size[0]), np.uint8)
    x, y, width, height = PATCH
    pixels[y : y + height, x : x + width] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    (folder / "images").mkdir(exist_ok=True)
    Image.fromarray(pixels).save(folder / "images" / "a.png", exif=exif)
    with Image.open(folder / "images" / "a.png") as image:
        shown = pixels if frame == "stored" else np.asarray(ImageOps.exif_transpose(image))
    rows, columns = (np.flatnonzero(shown.any(axis)) for axis in (1, 0))
    box = [int(v) for v in (columns[0], rows[0], len(columns), len(rows))]
    x, y, width, height = box
    polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
    written = content()
    written["images"][0] |= {"height": shown.shape[0], "width": shown.shape[1]}
    written["annotations"][0] |= {"bbox": box, "segmentation": [polygon]}
    second = {**copy.deepcopy(written["annotations"][0]), "id": 8, "segmentation": encode_mask(shown > 0)}
    written["annotations"].append(second)
    (folder / "instances.json").write_text(json.dumps(written))


@pytest.mark.parametrize("frame", ["stored", "upright"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_and_masks_turn_with_their_image(tmp_path, orientation, frame):
    write_turned(tmp_path, orientation, frame)
    told = orientation == 1 or orientation > 4  # by the size: turned by a quarter, and not square
    (image,) = load_coco(tmp_path, LAYOUT, None if told else frame).splits["train"]
    picture, entry = image.load()
    assert picture.size == (entry.width, entry.height) == ((12, 20) if orientation > 4 else (20, 12))
    white = np.asarray(picture)[..., 0] > 0
    targets = training_targets(entry, (3,), with_masks=True)
    assert len(targets.masks) == 2 and all(np.array_equal(mask, white) for mask in targets.masks)
    for x1, y1, x2, y2 in targets.boxes.astype(int):
        assert white[y1:y2, x1:x2].all() and white.sum() == (x2 - x1) * (y2 - y1)
    again, entry_again = entry.load()  # pictures of predictions open it a second time
    assert entry_again == entry and np.array_equal(np.asarray(again), np.asarray(picture))
    for annotation in measured(entry, with_masks=True).annotations:
        assert np.array_equal(rle.decode(annotation["segmentation"]), white)


@pytest.mark.parametrize("orientation, size", [(3, (20, 12)), (2, (20, 12)), (6, (12, 12))])
def test_a_frame_that_nothing_tells_is_asked_for(tmp_path, orientation, size):
    write_turned(tmp_path, orientation, "stored", size)
    (image,) = load_coco(tmp_path, LAYOUT).splits["train"]
    with pytest.raises(ValueError, match=rf"a\.png is turned by its EXIF orientation {orientation}.*--exif_frame"):
        image.load()
    written = json.loads((tmp_path / "instances.json").read_text())
    (tmp_path / "instances.json").write_text(json.dumps({**written, "annotations": []}))
    assert load_coco(tmp_path, LAYOUT).splits["train"][0].read().size == size  # nothing is annotated


def test_a_folder_and_ids_that_are_lists_are_refused(tmp_path):
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ValueError, match="is no file; it must be a COCO instances file"):
        read_instances(tmp_path / "folder.json", tmp_path)
    entries = [{"id": [i], "height": 2, "width": 2, "file_name": f"{i}.png"} for i in range(2)]
    (tmp_path / "train.json").write_text(json.dumps({"categories": [], "images": entries}))
    with pytest.raises(ValueError, match="is no COCO instances file: TypeError"):
        read_instances(tmp_path / "train.json", tmp_path)
