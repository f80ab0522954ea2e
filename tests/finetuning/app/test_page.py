"""The page in a real browser: a picture goes in, and what comes out is what the predictors find."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import mona_peft
from mona_peft.finetuning.app.models import AppModels, name_models
from mona_peft.finetuning.app.page import serve
from mona_peft.finetuning.data.dense.transforms import DenseSettings
from mona_peft.finetuning.methods import apply_method
from mona_peft.finetuning.models.building import build_model
from mona_peft.finetuning.pictures.drawing import class_colour, enlarge
from mona_peft.finetuning.repository import save_repository
from tests.finetuning.serving.adapters import save_adapter
from tests.finetuning.tasks.tiny_classifier import write_classifier
from tests.finetuning.tasks.tiny_dense import ARCHITECTURE_OPTIONS, write_swin
from tests.support.browser import CHROMIUM, Visitor
from tests.support.models import randomise

#: Names of the dense models with their architectures: labels, boxes and masks.
DENSE = {"scene": "upernet", "street": "retinanet", "things": "mask2former"}
#: Parts of their heads that get larger random weights, for them to be sure of something.
SURE = ("class_predictor", "mask_embedder")
THRESHOLD = 0.5


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two classifiers, the dense models, a picture and a broken one."""
    root = tmp_path_factory.mktemp("app")
    write_classifier(root / "base")
    save_adapter(root / "base", root / "pets", "mona", 3)
    save_adapter(root / "base", root / "birds", "adaptformer", 4, 1)
    write_swin(root / "stages")
    for name, architecture in DENSE.items():
        torch.manual_seed(0)
        model = build_model(architecture, str(root / "stages"), ["sky", "sea"], **ARCHITECTURE_OPTIONS[architecture])
        model = apply_method(model, "mona", bottleneck_dim=4)
        randomise(model, "mona_", std=0.5)
        randomise(model, "head.")
        for part in SURE:
            randomise(model, part, std=1.0)
        save_repository(model, DenseSettings(64, 64).processor(), root / name)
    noise = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "noise.png")
    (root / "broken.png").write_bytes((root / "noise.png").read_bytes()[:900])
    return root


def scores(folder, image):
    return {entry["label"]: entry["score"] for entry in mona_peft.load(folder).predict([image])[0]}


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_a_visitor_sees_what_the_predictors_find(root):
    image = Image.open(root / "noise.png")
    models = AppModels(name_models([str(root / name) for name in ("pets", "birds", *DENSE)]), threshold=THRESHOLD)
    visitor = Visitor(serve(models, wait=False))
    try:
        visitor.upload(root / "noise.png")
        visitor.await_message("noise.png", "pets")
        visitor.wait(lambda: len(visitor.bars("on")) == 3 and len(visitor.captions()) == 4)
        assert visitor.bars("on") == pytest.approx(scores(root / "pets", image), abs=1e-6)
        assert list(visitor.bars("on")) == list(scores(root / "pets", image))
        assert visitor.bars("off") != pytest.approx(visitor.bars("on"), abs=1e-2)
        assert all("of the stream on average, at most" in caption for caption in visitor.captions())
        assert not visitor.hidden_captions()

        visitor.choose("birds")
        visitor.await_message("noise.png", "birds")
        visitor.wait(lambda: len(visitor.bars("on")) == 4)
        assert visitor.bars("on") == pytest.approx(scores(root / "birds", image), abs=1e-6)

        for name in DENSE:
            visitor.choose(name)
            visitor.await_message("noise.png", name)
            visitor.wait(lambda: not visitor.bars("on"))
            drawn = mona_peft.load(root / name).draw(image, THRESHOLD)
            assert not np.array_equal(drawn, enlarge(image)[0])
            visitor.wait(lambda drawn=drawn: np.array_equal(visitor.picture("on"), drawn))
            assert not np.array_equal(visitor.picture("off"), drawn)

        visitor.upload(root / "broken.png")
        visitor.await_message("broken.png cannot be read as a picture; give another file.")
        assert not visitor.captions()
        visitor.upload(root / "noise.png")  # and the page goes on
        visitor.await_message("noise.png", name)
    finally:
        visitor.close()


@pytest.mark.parametrize("name", ["pets", *DENSE])
def test_a_look_is_the_predictors_result_with_a_map_a_block(root, name):
    image = Image.open(root / "noise.png")
    look = AppModels(name_models([str(root / name)]), threshold=THRESHOLD).look(name, image)
    loaded = mona_peft.load(root / name)
    if name == "pets":
        found = loaded.predict([image])[0]
        assert look.adapted.scores == {entry["label"]: entry["score"] for entry in found}
        assert look.bare.scores != look.adapted.scores
    else:
        assert np.array_equal(look.adapted.drawn, loaded.draw(image, THRESHOLD))
        assert not np.array_equal(look.bare.drawn, look.adapted.drawn)
    blocks = [each for each, module in loaded.bare_model().named_modules() if hasattr(module, "_tap")]
    assert [caption.partition(":")[0] for _, caption in look.maps] == blocks
    assert all(np.ptp(np.asarray(picture)) > 20 for picture, _ in look.maps)


def outline(box, shape):
    """The pixels of a box's edges in a picture of this height and width."""
    highest = np.array([shape[1], shape[0]] * 2) - 1
    left, top, right, bottom = np.clip(box.astype(int), 0, highest)
    edges = np.zeros(shape, bool)
    edges[top : bottom + 1, [left, right]] = edges[[top, bottom], left : right + 1] = True
    return edges


@pytest.mark.parametrize("name", ["street", "things"])
def test_objects_are_drawn_where_they_were_found(root, name):
    image = Image.open(root / "noise.png")
    drawn = AppModels(name_models([str(root / name)]), threshold=THRESHOLD).look(name, image).adapted.drawn
    large, factor = enlarge(image)
    changed = (np.asarray(drawn) != np.asarray(large)).any(-1)
    found = mona_peft.load(root / name).predict([image], THRESHOLD)[0]
    assert len(found["boxes"]) > 0
    last = outline(found["boxes"][-1] * factor, changed.shape)  # which is drawn over the others
    assert (np.asarray(drawn)[last] == class_colour(found["labels"][-1])).all(-1).mean() > 0.5
    if name == "things":
        masks = found["masks"].any(0).repeat(factor, 0).repeat(factor, 1)
        assert changed[masks].mean() > 0.95 and changed[~masks].mean() < 0.5


def test_models_have_short_names_that_tell_them_apart(tmp_path):
    for name in ("a/model", "b/model", "c"):
        (tmp_path / name).mkdir(parents=True)
    given = [str(tmp_path / "a/model"), str(tmp_path / "b/model"), str(tmp_path / "c"), "user/pets"]
    assert list(name_models(given)) == ["a/model", "b/model", "c", "pets"]
    with pytest.raises(ValueError, match="c is given twice"):
        name_models([given[2], given[2] + "/"])
