"""`adapter_names`: each row uses the adapter, and the head, named for it, in every tuner and every thread."""

from __future__ import annotations

import threading

import pytest
import torch
from peft import get_peft_model

from mona_peft import LoRandConfig, MonaConfig, SSFConfig, VPTConfig
from tests.families.family import tensors
from tests.families.matrix import FAMILIES
from tests.families.test_families import same
from tests.support.models import TINY_MODELS, images, predict, randomise
from tests.tuners.test_other_tuners_lifecycle import CASES, PAIRS, Case

pytestmark = pytest.mark.filterwarnings("ignore")

MONA = Case(MonaConfig, {"bottleneck_dim": 4}, {"bottleneck_dim": 3})
#: Families of which SSF adapts layers that see no rows of images.
ROWLESS = ("swinv2", "vit, relative positions", "clip (two towers)")
HEADED = [pair for pair in PAIRS if pair[1].endswith("classifier")]


def two_adapters(case, tiny, **options):
    """A model with two adapters, each with a head of its own, told apart by their weights."""
    model = case.adapt(tiny)
    model.add_adapter("second", case.config(**case.other, modules_to_save=tiny.modules_to_save, **options))
    case.calibrate(model, "second")
    randomise(model, f".{case.prefix}", std=0.3)
    for number, name in enumerate(("default", "second")):
        randomise(model, f"modules_to_save.{name}.", std=0.3, seed=number)
    model.set_adapter("default")
    return model.eval()


def alone(model, x):
    """What each adapter, and the base model, make of all rows."""
    expected = {}
    for name in ("second", "default"):
        model.set_adapter(name)
        expected[name] = predict(model.eval(), x)
    with model.disable_adapter():
        expected["__base__"] = predict(model, x)
    return expected


@pytest.mark.parametrize("pair", [*HEADED, ("mona", "swin-classifier")], ids="-".join)
def test_rows_use_the_adapter_and_head_named_for_them(pair):
    name, tiny = pair[0], TINY_MODELS[pair[1]]
    model = two_adapters(CASES.get(name, MONA), tiny)
    x = images(4)
    expected = alone(model, x)
    names = ["second", "__base__", "default", "second"]
    mixed = predict(model, x, adapter_names=names)
    for row, chosen in enumerate(names):
        for candidate, outputs in expected.items():
            assert torch.allclose(mixed[row], outputs[row], atol=1e-5) == (candidate == chosen)
    assert torch.equal(predict(model, x), expected["default"])


@pytest.mark.parametrize("pair", [p for p in PAIRS if p[1] == "vit-classifier"], ids="-".join)
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["default", "third"], r"has \['third'\], but the adapters are \['default', 'second'\] and '__base__'"),
        (["default"], "has 1 names for a batch of 2 rows"),
        (["__base__"] * 3, "has 3 names for a batch of 2 rows"),
        ([], "has 0 names for a batch of 2 rows"),
    ],
)
def test_wrong_names_are_refused(pair, names, message):
    model = two_adapters(CASES[pair[0]], TINY_MODELS[pair[1]])
    with pytest.raises(ValueError, match=message):
        predict(model, images(2), adapter_names=names)
    with pytest.raises(ValueError, match="adapter_names is for inference"):
        predict(model.train(), images(2), adapter_names=["default", "second"])


def test_a_number_of_names_that_divides_the_windows_is_refused_too():
    model = two_adapters(CASES["bottleneck"], TINY_MODELS["swin-classifier"])
    with pytest.raises(ValueError, match="has 2 names for a batch of 4 rows"):
        predict(model, images(4), adapter_names=["default", "second"])


def test_a_head_that_only_one_adapter_has():
    """Rows of the other adapter use the model's own head."""
    case, tiny = CASES["lorand"], TINY_MODELS["vit-classifier"]
    model = case.adapt(tiny)
    model.add_adapter("second", LoRandConfig(lorand_beta=4, init_weights=False))
    randomise(model, "modules_to_save.default.")
    x = images(2)
    expected = alone(model, x)
    for active in ("default", "second"):
        model.set_adapter(active)
        mixed = predict(model.eval(), x, adapter_names=["second", "default"])
        torch.testing.assert_close(mixed[0], expected["second"][0], rtol=0, atol=1e-5)
        torch.testing.assert_close(mixed[1], expected["default"][1], rtol=0, atol=1e-5)


def test_a_model_that_runs_inside_another_has_names_of_its_own():
    tiny = TINY_MODELS["vit-classifier"]
    outer, inner = two_adapters(MONA, tiny), two_adapters(MONA, tiny)
    x = images(2)
    expected = predict(outer, x, adapter_names=["default", "second"])

    def run_inner(*_):
        predict(inner, x, adapter_names=["second", "default"])

    outer.base_model.model.vit.embeddings.register_forward_hook(run_inner)
    assert torch.equal(predict(outer, x, adapter_names=["default", "second"]), expected)


@pytest.mark.parametrize("name", ["mona", "bottleneck", "lorand", "ssf", "vpt"])
def test_threads_have_names_of_their_own(name):
    tiny = TINY_MODELS["swin-classifier"]
    model = two_adapters(CASES.get(name, MONA), tiny)
    x = images(2)
    expected, wrong = alone(model, x), []
    model.set_adapter("default")

    def run(names):
        for _ in range(15):
            mixed = predict(model, x, **({"adapter_names": names} if names else {}))
            for row, chosen in enumerate(names or ["default"] * 2):
                if not torch.allclose(mixed[row], expected[chosen][row], atol=1e-5):
                    wrong.append((names, row))

    choices = (["default", "second"], ["second", "__base__"], ["__base__", "default"], None)
    threads = [threading.Thread(target=run, args=(names,)) for names in choices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: f"{family.library}-{family.name}")
@pytest.mark.parametrize("config", [SSFConfig(), VPTConfig(vpt_tokens=2)], ids=lambda config: config.method)
@torch.no_grad()
def test_rows_of_every_family_are_served_exactly_or_refused(config, family):
    """Windows and images inside the blocks have the adapter of their image."""
    try:
        model = get_peft_model(family.model(), config, "first")
    except ValueError:
        return  # which families a tuner refuses is for test_every_tuner to say
    model.add_adapter("second", config)
    randomise(model, f".{config.method}_", std=0.2)
    model.eval()
    outputs = {}
    for name in ("second", "first"):
        model.set_adapter(name)
        outputs[name] = family.call(model.eval())
    if family.packed:  # a sequence of patches has no rows
        with pytest.raises(ValueError, match="has 2 names for a batch of 116 rows"):
            family.call(model, adapter_names=["second", "first"])
        return
    try:
        mixed = family.call(model, adapter_names=["second", "first"])
    except ValueError as error:
        assert "which row belongs to which image is unknown" in str(error)
        assert (config.method, family.name) in [("ssf", name) for name in ROWLESS]
        return
    assert family.name not in ROWLESS
    for together, one, other in zip(
        tensors(mixed), tensors(outputs["second"]), tensors(outputs["first"]), strict=True
    ):
        if together.dim() > 1 and len(together) == 2:
            assert same(together[0], one[0], 1e-4) and same(together[1], other[1], 1e-4)
    assert not same(outputs["second"], outputs["first"], 1e-4)


@pytest.mark.parametrize("name", ["bottleneck", "lorand", "ssf", "vpt"])
def test_compiled_models_refuse_names(name):
    model = two_adapters(CASES[name], TINY_MODELS["vit-classifier"])
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(predict(compiled, images()), predict(model, images()), rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match="has no effect in a compiled model"):
        predict(compiled, images(), adapter_names=["second", "__base__"])
    torch._dynamo.reset()
