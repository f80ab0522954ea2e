"""One base model serves many adapters, each as if it had been loaded alone."""

from __future__ import annotations

import json
import shutil
import threading
import warnings

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import mona_peft
from mona_peft.finetuning.inference.loading import load
from mona_peft.finetuning.serving.sharing import own_bytes
from mona_peft.finetuning.validation import RepositoryError
from tests.finetuning.inference.saved import save
from tests.finetuning.tasks.tiny_classifier import write_classifier
from tests.finetuning.tasks.tiny_dense import write_vit
from tests.support.models import images

from .adapters import METHODS, save_adapter

CLASSES = (3, 6, 2)
NAMES = ["b", "a", "c", "b", "a"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Adapters of each method, with heads of different classes, on one Swin."""
    root = tmp_path_factory.mktemp("router")
    write_classifier(root / "base")
    for method in METHODS:
        for seed, (name, classes) in enumerate(zip("abc", CLASSES, strict=True)):
            save_adapter(root / "base", root / method / name, method, classes, seed)
    return root


def sources(root, method):
    return {name: root / method / name for name in "abc"}


@torch.inference_mode()
def run(model, pixels):
    return model(pixel_values=pixels).logits


def alone(folder, pixels):
    return run(load(folder).model, pixels)


@pytest.mark.parametrize("method", METHODS)
def test_rows_get_what_their_adapter_gives_alone(root, method):
    pixels = images(5)
    expected = {name: load(root / method / name).model for name in "abc"}
    mixed = mona_peft.AdapterRouter(sources(root, method))(pixels, NAMES)
    apart = mona_peft.AdapterRouter(sources(root, method), mix=False)(pixels, NAMES)
    outputs = {name: run(model, pixels) for name, model in expected.items()}
    for row, name in enumerate(NAMES):
        assert len(mixed[row]) == len(apart[row]) == CLASSES["abc".index(name)]
        # In one pass the matrix products have other shapes than alone, so they may be summed in another order.
        torch.testing.assert_close(mixed[row], outputs[name][row], rtol=1e-4, atol=1e-5)
    for name, model in expected.items():  # apart, they are the very products of the adapter alone: bit for bit
        rows = [row for row, chosen in enumerate(NAMES) if chosen == name]
        assert torch.equal(torch.stack([apart[row] for row in rows]), run(model, pixels[rows]))
    assert not torch.allclose(outputs["a"][:, :3], outputs["b"][:, :3], atol=1e-2)  # a wrong adapter would show


def test_one_pass_serves_all_rows_of_a_method_and_configuration(root, monkeypatch):
    """Counted where patches are embedded; other configurations and LoRA take passes of their own."""
    save_adapter(root / "base", root / "wider", "mona", 4, bottleneck_dim=6)
    router = mona_peft.AdapterRouter(
        sources(root, "mona") | {"wider": root / "wider", "l": root / "lora" / "a", "m": root / "lora" / "b"}
    )
    router(images(6), ["a", "b", "wider", "l", "c", "m"])
    seen = []
    from transformers.models.swin.modeling_swin import SwinPatchEmbeddings

    forward = SwinPatchEmbeddings.forward
    monkeypatch.setattr(SwinPatchEmbeddings, "forward", lambda s, x: [seen.append(len(x)), forward(s, x)][1])
    router(images(6), ["a", "b", "wider", "l", "c", "m"])
    assert seen == [3, 1, 1, 1]


def test_methods_mix_in_one_batch(root):
    names = ["mona", "lora", "vpt"]
    pixels = images(len(names))
    router = mona_peft.AdapterRouter({method: root / method / "a" for method in names})
    for row, (name, logits) in enumerate(zip(names, router(pixels, names), strict=True)):
        torch.testing.assert_close(logits, alone(root / name / "a", pixels)[row], rtol=1e-4, atol=1e-5)


def test_the_base_model_is_in_memory_once(root):
    router = mona_peft.AdapterRouter(sources(root, "mona"))
    models = [router.get(name).loaded.model for name in "abc"]
    frozen = [{n: p.data_ptr() for n, p in m.named_parameters() if ".swin." in n and "mona_" not in n} for m in models]
    assert len(frozen[0]) > 60 and frozen[0] == frozen[1] == frozen[2]
    adapters = sum(router.get(name).nbytes for name in "abc")
    alone = own_bytes(load(root / "mona" / "a").model)
    assert 0 < router.nbytes - adapters < alone and router.nbytes < sum(map(own_bytes, models))


def test_the_least_recently_used_is_unloaded(root):
    router = mona_peft.AdapterRouter(sources(root, "mona"), max_adapters=2)
    pixels = images(1)
    for name in ("a", "b", "a", "c"):
        router(pixels, [name])
    assert router.loaded == ["a", "c"]
    size = router.get("a").nbytes
    assert len(router(images(3), ["a", "b", "c"])) == 3 and router.loaded == ["b", "c"]  # more than are kept
    few = mona_peft.AdapterRouter(sources(root, "mona"), max_bytes=int(2.5 * size))
    few(images(3), ["a", "b", "c"])
    assert few.loaded == ["b", "c"]
    with pytest.raises(ValueError, match=rf"'a' has {size} bytes, more than max_bytes=9"):
        mona_peft.AdapterRouter(sources(root, "mona"), max_bytes=9).get("a")


def test_threads_share_a_router_that_loads_and_unloads(root):
    router = mona_peft.AdapterRouter(sources(root, "mona") | {"l": root / "lora" / "c"}, max_adapters=2)
    pixels, wrong = images(2), []
    folders = {name: root / "mona" / name for name in "abc"} | {"l": root / "lora" / "c"}
    expected = {name: alone(folder, pixels) for name, folder in folders.items()}

    def serve(names):
        for _ in range(4):
            for row, (name, logits) in enumerate(zip(names, router(pixels, names), strict=True)):
                if not torch.allclose(logits, expected[name][row], rtol=1e-4, atol=1e-5):
                    wrong.append((names, row))

    threads = [threading.Thread(target=serve, args=(names,)) for names in ("ab", "bc", "lc", "la")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(router.loaded) == 2


def test_pictures_are_prepared_as_each_adapter_was_trained(root, tmp_path):
    shutil.copytree(root / "mona" / "b", tmp_path / "b")
    path = tmp_path / "b" / "preprocessor_config.json"
    processor = json.loads(path.read_text())
    path.write_text(json.dumps(processor | {"size": {"height": 48, "width": 48}}))
    pictures = [Image.new("RGB", (40, 30), (200, 10, 90)), Image.new("L", (20, 30), 99), Image.new("RGB", (9, 9))]
    folders = {"a": root / "mona" / "a", "b": tmp_path / "b"}
    found = mona_peft.AdapterRouter(folders).predict(pictures, ["a", "b", "b"], top_k=2)
    for picture, name, labels in zip(pictures, "abb", found, strict=True):
        (expected,) = load(folders[name]).predict([picture], top_k=2)
        assert [entry["label"] for entry in labels] == [entry["label"] for entry in expected]
        assert [e["score"] for e in labels] == pytest.approx([e["score"] for e in expected], abs=1e-5)


def test_what_cannot_be_served_is_refused(root, tmp_path):
    router = mona_peft.AdapterRouter(sources(root, "mona"))
    with pytest.raises(ValueError, match=r"no adapter 'd'; the router has 'a', 'b', 'c'"):
        router(images(1), ["d"])
    with pytest.raises(ValueError, match="has 1 names for a batch of 2 rows"):
        router(images(2), ["a"])
    with pytest.raises(ValueError, match="has 1 names for 2 images"):
        router.predict([Image.new("RGB", (9, 9))] * 2, ["a"])
    for options in ({"max_adapters": 0}, {"max_bytes": -1}):
        with pytest.raises(ValueError, match="must be at least 1"):
            mona_peft.AdapterRouter(sources(root, "mona"), **options)
    with pytest.raises(ValueError, match="No adapters were given"):
        mona_peft.AdapterRouter({})


def refused(root, other, match):
    router = mona_peft.AdapterRouter({"a": root / "mona" / "a", "other": other})
    expected = router(images(1), ["a"])[0]
    with pytest.raises(RepositoryError, match=match):
        router.get("other")
    assert torch.equal(router(images(1), ["a"])[0], expected)


def test_repositories_that_are_not_for_the_base_model_are_refused(root, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused(root, save(write_classifier(tmp_path / "twin"), tmp_path / "elsewhere"), "for the base model .*twin")
        refused(root, save(write_vit(tmp_path / "vit"), tmp_path / "on_vit"), "for the base model .*vit")
    refused(root, save(root / "base", tmp_path / "fixed", "fixed"), "holds no adapter; load it alone")
    refused(root, save(root / "base", tmp_path / "full", "full"), "holds no adapter; load it alone")


def test_an_adapter_for_other_settings_of_the_base_model_is_refused(root, tmp_path):
    shutil.copytree(root / "mona" / "b", tmp_path / "b")
    path = tmp_path / "b" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_act": "relu"}))
    refused(root, tmp_path / "b", r"with other settings than the SwinForImageClassification in memory \(hidden_act\)")


def test_an_adapter_without_a_head_is_refused(root, tmp_path):
    shutil.copytree(root / "mona" / "b", tmp_path / "b")
    weights = tmp_path / "b" / "adapter_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(weights).items() if "mona_" in name}, weights)
    path = tmp_path / "b" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"modules_to_save": None}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused(root, tmp_path / "b", r"holds no head: classifier\.\w+ is not in it")


def test_lora_that_would_change_the_base_weights_leaves_the_shared_ones_alone(root, tmp_path):
    """PiSSA takes its start away from the base weights while it is loaded."""
    save_adapter(root / "base", tmp_path / "pissa", "lora", 3, init_lora_weights="pissa")
    router = mona_peft.AdapterRouter({"a": root / "mona" / "a", "pissa": tmp_path / "pissa"})
    expected = router(images(1), ["a"])[0]
    found = router(images(1), ["pissa"])[0]
    assert torch.equal(found, alone(tmp_path / "pissa", images(1))[0])
    assert torch.equal(router(images(1), ["a"])[0], expected)
