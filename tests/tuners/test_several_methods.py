"""Two methods on one model: each takes off its own layers and leaves the other's, in either order."""

from __future__ import annotations

import itertools

import pytest
import torch
from peft import LoraConfig, LoraModel, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer

import mona_peft
from tests.support.models import TINY_MODELS, images, predict, randomise
from tests.tuners.test_other_tuners_lifecycle import CASES, snapshot

pytestmark = pytest.mark.filterwarnings("ignore")

CONFIGS = {name: case.config(**case.options) for name, case in CASES.items()}
CONFIGS["mona"] = mona_peft.MonaConfig(bottleneck_dim=4)
TUNERS = {
    name: getattr(mona_peft, type(config).__name__.replace("Config", "Model")) for name, config in CONFIGS.items()
}
PAIRS = list(itertools.permutations(("mona", "ssf", "vpt", "convpass", "bottleneck"), 2))


def put(model, name, adapter):
    tuner = TUNERS[name](model, CONFIGS[name], adapter)
    randomise(model, f".{name}_")
    return tuner


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@pytest.mark.parametrize("first_off", [0, 1])
@pytest.mark.parametrize("model_name", ["swin-classifier", "vit-model"])
def test_each_is_unloaded_alone(pair, first_off, model_name):
    tiny = TINY_MODELS[model_name]
    base = tiny.build()
    before, output = snapshot(base), predict(base, images())
    try:
        tuners = [put(base, name, f"adapter_{name}") for name in pair]
    except ValueError as error:  # the projections are inside the attention that VPT has wrapped
        refusals = {("vpt", "bottleneck"): "no output projection", ("vpt", "ssf"): "SSF cannot adapt"}
        assert refusals[pair] in str(error)
        return
    predict(base.eval(), images())
    tuners[first_off].unload()
    kept = pair[1 - first_off]
    alone = tiny.build()
    TUNERS[kept](alone, CONFIGS[kept], f"adapter_{kept}")
    alone.load_state_dict(base.state_dict())
    torch.testing.assert_close(predict(base.eval(), images()), predict(alone.eval(), images()), rtol=0, atol=1e-6)
    assert not torch.allclose(predict(base, images()), output, atol=1e-4)
    tuners[1 - first_off].unload()
    assert torch.equal(predict(base, images()), output)
    assert snapshot(base) == before


@pytest.mark.parametrize("name", ["mona", "convpass", "adaptformer"])
def test_which_comes_first_makes_no_difference(name):
    """What reads the output of a norm reads it with the scales and shifts of SSF, as the branches do."""
    outputs = []
    for pair in ((name, "ssf"), ("ssf", name)):
        base = TINY_MODELS["vit-model"].build()
        tuners = [put(base, method, f"adapter_{method}") for method in pair]
        outputs.append(predict(base.eval(), images()))
        tuners[pair.index("ssf")].unload()
        outputs.append(predict(base, images()))
    assert torch.equal(outputs[0], outputs[2]) and torch.equal(outputs[1], outputs[3])
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-3)


@pytest.mark.parametrize("name", ["mona", "convpass", "bottleneck", "ssf", "vpt"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("same_name", [True, False])
def test_lora_stays(name, first, same_name):
    # LoRA does not look into attention that VPT has wrapped
    targets = ["fc1"] if name == "vpt" else ["fc1", "q_proj"]
    lora_config = LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    tiny = TINY_MODELS["vit-classifier"]
    reference = tiny.build()
    torch.manual_seed(1)
    LoraModel(reference, lora_config, "default")
    base = tiny.build()
    ours = None if first else put(base, name, "default" if same_name else "own")
    torch.manual_seed(1)
    LoraModel(base, lora_config, "default")
    ours = put(base, name, "default" if same_name else "own") if ours is None else ours
    assert not torch.allclose(predict(base.eval(), images()), predict(reference.eval(), images()), atol=1e-5)
    assert ours.unload() is base
    assert sum(isinstance(m, LoraLayer) for m in base.modules()) == len(targets) * tiny.blocks
    assert list(base.state_dict()) == list(reference.state_dict())
    assert not any(isinstance(m, tuple({type(ours).tuner_layer_cls})) for m in base.modules())
    base.load_state_dict(reference.state_dict())
    assert torch.equal(predict(base, images()), predict(reference, images()))


def test_ssf_after_vpt_is_refused_or_leaves_attention_out():
    base = TINY_MODELS["vit-model"].build()
    put(base, "vpt", "first")
    before = snapshot(base)
    with pytest.raises(ValueError, match="SSF cannot adapt 'q_proj' in 'layers.0.attention', which a VPTLayer wraps"):
        put(base, "ssf", "second")
    assert snapshot(base) == before
    mona_peft.SSFModel(base, mona_peft.SSFConfig(exclude_modules=["attention"]), "second")
    assert not any(".attention." in key for key in base.state_dict() if ".second." in key)


def test_an_adapter_inside_a_layer_that_another_wraps_is_counted():
    base = TINY_MODELS["vit-model"].build()
    LoraModel(base, LoraConfig(r=2, target_modules=["o_proj"]), "inner")
    put(base, "bottleneck", "outer")
    sizes = {n: p.numel() for n, p in base.named_parameters() if ".inner." in n or ".outer." in n}
    assert any("lora_A" in name for name in sizes)
    assert mona_peft.summary(base).adapters.total == sum(sizes.values())


@pytest.mark.parametrize("name", ["mona", "bottleneck", "ssf"])
def test_a_head_goes_with_its_adapter(name):
    case = CASES.get(name)
    options = case.options if case else {"bottleneck_dim": 4}
    config = type(CONFIGS[name])(**options, modules_to_save=["classifier"])
    base = TINY_MODELS["vit-classifier"].build()
    model = get_peft_model(base, config, "own")
    LoraModel(base, LoraConfig(r=2, target_modules=["q_proj"]), "lora")
    assert isinstance(model, PeftModel) and model.base_model.unload() is base
    assert type(base.classifier) is torch.nn.Linear
    assert set(base.peft_config) == {"lora"}


@pytest.mark.parametrize("name", ["bottleneck", "lorand", "ssf", "vpt", "mona"])
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_switched_on_before(name, use_reentrant):
    gradients = []
    for checkpointing in (False, True):
        base = TINY_MODELS["swin-classifier"].build()
        before = snapshot(base)
        if checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        model = get_peft_model(base, CONFIGS[name])
        randomise(model, f".{name}_")
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model(pixel_values=images()).logits.square().sum().backward()
        gradients.append({key: p.grad for key, p in model.named_parameters() if p.requires_grad})
        if not checkpointing:
            model.unload()
            assert snapshot(base) == before
    assert all(gradient is not None for gradient in gradients[1].values())
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, rtol=1e-4, atol=1e-6)
