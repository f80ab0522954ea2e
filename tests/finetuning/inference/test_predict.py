"""Prediction from the command line: no picture lost, no image too many in memory, no setting without effect."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mona_peft.finetuning.data.images import UnreadableImage
from mona_peft.finetuning.data.sources.classification import DataConfig
from mona_peft.finetuning.inference.items import picture_names
from mona_peft.finetuning.inference.loading import load
from mona_peft.finetuning.inference.predict import PredictionConfig, predict
from mona_peft.finetuning.models.building import build_model
from mona_peft.finetuning.repository import save_repository
from tests.finetuning.inference.saved import save
from tests.finetuning.tasks.tiny_classifier import write_classifier
from tests.finetuning.tasks.tiny_dense import ARCHITECTURE_OPTIONS, write_swin

MEMORY = """
import resource, sys
from PIL import Image
from mona_peft.finetuning.inference.predict import PredictionConfig, predict
from mona_peft.finetuning.data.sources.classification import DataConfig
config = PredictionConfig(model=sys.argv[1], images=sys.argv[2:], batch_size=8, cpu=True)
assert len(predict(config, DataConfig())) == len(sys.argv) - 2
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    root = tmp_path_factory.mktemp("classifier")
    return save(write_classifier(root / "base"), root / "model")


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    from mona_peft.finetuning.data.dense.transforms import DenseSettings

    root = tmp_path_factory.mktemp("segmenter")
    base = write_swin(root / "base")
    model = build_model("upernet", str(base), ["a", "b"], **ARCHITECTURE_OPTIONS["upernet"])
    return save_repository(model, DenseSettings(64, 64).processor(), root / "model")


@pytest.fixture
def images(tmp_path):
    for name in ("a.png", "a.bmp", "sub/a.png", "sub_a.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (len(name) * 9, 0, 0)).save(tmp_path / "images" / name)
    return tmp_path / "images"


def settings(model, images, **changes):
    return PredictionConfig(model=str(model), images=[str(images)], cpu=True, **changes)


def test_no_picture_overwrites_another(segmenter, images, tmp_path):
    rows = predict(settings(segmenter, images, draw_dir=str(tmp_path / "drawn")), DataConfig())
    assert len(rows) == 4
    assert len(list((tmp_path / "drawn").iterdir())) == 8  # a picture and a label map each


def test_no_picture_overwrites_an_image(segmenter, images, monkeypatch):
    monkeypatch.chdir(images)
    before = {path: path.read_bytes() for path in images.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"--draw_dir \. would write over the image a\.png; name another folder"):
        predict(settings(segmenter, ".", draw_dir="."), DataConfig())
    for _ in range(2):  # again, over the pictures of the first time
        rows = predict(settings(segmenter, ".", draw_dir="drawn"), DataConfig())
        assert len(rows) == 4 and len(list((images / "drawn").iterdir())) == 8
    assert {path: path.read_bytes() for path in before} == before


def test_names_of_pictures():
    names = [
        "x/a.jpg",
        "x/a.png",
        "x_a.png",
        "X/A.jpg",
        "x/a_labels.png",
        "../x/a.jpg",
        "/x/a.jpg",
        "b" * 400 + ".png",
    ]
    chosen = picture_names(names)
    taken = [name.casefold() + suffix for name in chosen for suffix in ("", "_labels")]
    assert len(set(taken)) == 2 * len(names) and all(len(name) < 200 and "/" not in name for name in chosen)
    assert chosen[0] == "x_a" and picture_names(["a/b.jpg", "c.jpg"]) == ["a_b", "c"]


@pytest.mark.parametrize("kind", ["classifier", "segmenter"])
def test_a_bad_image_is_left_out_where_that_is_asked_for(kind, request, images):
    model = request.getfixturevalue(kind)
    (images / "b.png").write_bytes((images / "a.png").read_bytes()[:40])
    with pytest.raises(UnreadableImage, match=r"b\.png.*--skip_bad_images"):
        predict(settings(model, images), DataConfig())
    with pytest.warns(UserWarning, match=r"Left out: .*b\.png"):
        rows = predict(settings(model, images, batch_size=2), DataConfig(skip_bad_images=True))
    assert [Path(row["image"]).name for row in rows] == ["a.bmp", "a.png", "a.png", "sub_a.png"]


def test_held_out_images_are_drawn_by_the_seed_of_the_run(tmp_path, monkeypatch):
    class Drawn(Exception):
        pass

    def load_data(data, seed):
        raise Drawn(seed)

    monkeypatch.setattr("mona_peft.finetuning.inference.predict.load_data", load_data)
    (tmp_path / "model").mkdir()
    (tmp_path / "run.json").write_text('{"seed": 5}')
    for seed, model, drawn in ((None, tmp_path / "model", 5), (7, tmp_path / "model", 7), (None, "user/name", 0)):
        with pytest.raises(Drawn, match=f"^{drawn}$"):
            predict(PredictionConfig(model=str(model), seed=seed, cpu=True), DataConfig(dataset="digits"))


def test_only_bad_images(classifier, tmp_path, capsys):
    (tmp_path / "b.png").write_bytes(b"nothing")
    output = tmp_path / "out.json"
    with pytest.warns(UserWarning, match="Left out"):
        config = settings(classifier, tmp_path, output=str(output))
        assert predict(config, DataConfig(skip_bad_images=True)) == []
    assert json.loads(output.read_text()) == [] and "No image could be read" in capsys.readouterr().out


@pytest.mark.parametrize("changes", [{"batch_size": 0}, {"batch_size": -1}, {"top_k": 0}, {"threshold": 2.0}])
def test_settings_without_sense_are_refused(changes):
    ((name, value),) = changes.items()
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        PredictionConfig(model="m", **changes)


def test_no_labels_are_refused(classifier):
    with pytest.raises(ValueError, match="top_k=0"):
        load(classifier).predict([Image.new("RGB", (8, 8))], top_k=0)
    assert load(classifier).predict([]) == []


def test_a_batch_is_the_same_as_its_images(classifier, images):
    one, all_ = (predict(settings(classifier, images, batch_size=size), DataConfig()) for size in (1, 4))
    for first, second in zip(one, all_, strict=True):
        assert first["labels"] == second["labels"] and np.allclose(first["scores"], second["scores"], atol=1e-5)


@pytest.mark.slow
def test_one_large_image_is_open_at_a_time(classifier, tmp_path):
    """Eight images of 12 million pixels in a batch take hardly more than one."""
    paths = []
    for number in range(8):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.new("RGB", (4000, 3000), (number, 0, 0)).save(paths[-1], compress_level=1)

    def megabytes(*files):
        done = subprocess.run([sys.executable, "-c", MEMORY, str(classifier), *files], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return int(done.stdout.splitlines()[-1])

    assert megabytes(*paths) < megabytes(paths[0]) + 150  # each holds 36 MB as bytes, 144 MB as floats
