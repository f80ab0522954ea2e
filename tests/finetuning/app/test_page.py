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
from mona_peft.finetuning.repository import save_repository
from tests.finetuning.serving.adapters import save_adapter
from tests.finetuning.tasks.tiny_classifier import write_classifier
from tests.finetuning.tasks.tiny_dense import ARCHITECTURE_OPTIONS, write_swin
from tests.support.browser import CHROMIUM, Visitor
from tests.support.models import randomise


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two classifiers, a segmenter, a picture and a broken one."""
    root = tmp_path_factory.mktemp("app")
    write_classifier(root / "base")
    save_adapter(root / "base", root / "pets", "mona", 3)
    save_adapter(root / "base", root / "birds", "adaptformer", 4, 1)
    write_swin(root / "stages")
    torch.manual_seed(0)
    model = build_model("upernet", str(root / "stages"), ["sky", "sea"], **ARCHITECTURE_OPTIONS["upernet"])
    model = apply_method(model, "mona", bottleneck_dim=4)
    randomise(model, "mona_", std=0.5)
    save_repository(model, DenseSettings(64, 64).processor(), root / "scene")
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
    models = AppModels(name_models([str(root / name) for name in ("pets", "birds", "scene")]))
    visitor = Visitor(serve(models, wait=False))
    try:
        visitor.upload(root / "noise.png")
        visitor.await_message("noise.png", "pets")
        visitor.wait(lambda: len(visitor.bars("on")) == 3 and len(visitor.captions()) == 4)
        assert visitor.bars("on") == pytest.approx(scores(root / "pets", image), abs=1e-6)
        assert list(visitor.bars("on")) == list(scores(root / "pets", image))
        assert visitor.bars("off") != pytest.approx(visitor.bars("on"), abs=1e-2)
        assert all("of the stream on average" in caption for caption in visitor.captions())

        visitor.choose("birds")
        visitor.await_message("noise.png", "birds")
        visitor.wait(lambda: len(visitor.bars("on")) == 4)
        assert visitor.bars("on") == pytest.approx(scores(root / "birds", image), abs=1e-6)

        visitor.choose("scene")
        visitor.await_message("noise.png", "scene")
        visitor.wait(lambda: not visitor.bars("on"))
        drawn = mona_peft.load(root / "scene").draw(image)
        assert np.array_equal(visitor.picture("on"), drawn)
        assert not np.array_equal(visitor.picture("off"), drawn)

        visitor.upload(root / "broken.png")
        visitor.await_message("broken.png cannot be read as a picture; give another file.")
        assert not visitor.captions()
        visitor.upload(root / "noise.png")  # and the page goes on
        visitor.await_message("noise.png", "scene")
    finally:
        visitor.close()


@pytest.mark.parametrize("name", ["pets", "scene"])
def test_a_look_is_the_predictors_result_with_a_map_a_block(root, name):
    image = Image.open(root / "noise.png")
    look = AppModels(name_models([str(root / name)])).look(name, image)
    loaded = mona_peft.load(root / name)
    if name == "pets":
        found = loaded.predict([image])[0]
        assert look.adapted.scores == {entry["label"]: entry["score"] for entry in found}
        assert look.bare.scores != look.adapted.scores
    else:
        assert np.array_equal(look.adapted.drawn, loaded.draw(image))
        assert not np.array_equal(look.bare.drawn, look.adapted.drawn)
    blocks = [each for each, module in loaded.bare_model().named_modules() if hasattr(module, "_tap")]
    assert [caption.partition(":")[0] for _, caption in look.maps] == blocks
    assert all(np.ptp(np.asarray(picture)) > 20 for picture, _ in look.maps)


def test_models_have_short_names_that_tell_them_apart(tmp_path):
    for name in ("a/model", "b/model", "c"):
        (tmp_path / name).mkdir(parents=True)
    given = [str(tmp_path / "a/model"), str(tmp_path / "b/model"), str(tmp_path / "c"), "user/pets"]
    assert list(name_models(given)) == ["a/model", "b/model", "c", "pets"]
    with pytest.raises(ValueError, match="c is given twice"):
        name_models([given[2], given[2] + "/"])
