"""`modules_to_save` by any name: only modules of the base model match, and hooks reach the copy that runs."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel, get_peft_model

from mona_peft import BottleneckConfig, ConvpassConfig, LoRandConfig, MonaConfig, SCTConfig, SSFConfig
from mona_peft.tuners.base.saved import find_saved
from tests.support.models import TINY_MODELS, images, predict, randomise
from tests.support.subjects import SUBJECTS, run

pytestmark = pytest.mark.filterwarnings("ignore")

SWIN, TIMM = SUBJECTS["swin"], SUBJECTS["timm-vit"]
NAMES = {
    "swin": (SWIN, ["norm", "attention", "mlp", "layernorm_after", "patch_embeddings", "projection"]),
    "timm": (TIMM, ["norm", "attn", "norm1", "norm2", "patch_embed", "proj", "fc1"]),
}
CASES = [(MonaConfig, model, name) for model, (_, names) in NAMES.items() for name in names] + [
    (config, model, name)
    for config in (ConvpassConfig, BottleneckConfig, LoRandConfig, SSFConfig)
    for model, name in (("swin", "layernorm_after"), ("swin", "mlp"), ("timm", "norm"))
]


@pytest.mark.parametrize(("config", "name", "saved"), CASES)
def test_any_name_saves_loads_and_unloads(config, name, saved, tmp_path):
    subject = NAMES[name][0]
    model = get_peft_model(subject.build(), config(modules_to_save=[saved])).eval()
    copies = [n for n, _ in model.named_parameters() if ".modules_to_save." in n]
    assert copies and not any(f".{config.method}_" in n for n in copies), "nothing of an adapter is copied"
    randomise(model, "modules_to_save")
    randomise(model, f".{config.method}_")
    expected = run(model, images())
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(subject.build(), tmp_path).eval()
    assert torch.equal(run(loaded, images()), expected)
    loaded.load_adapter(tmp_path, "second")
    loaded.set_adapter("second")
    assert torch.equal(run(loaded.eval(), images()), expected)
    with loaded.disable_adapter():
        assert torch.equal(run(loaded, images()), run(subject.build(), images()))
    plain = loaded.unload()
    run(plain, images())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in plain.modules())


def test_names_inside_adapters_never_match():
    model = get_peft_model(TIMM.build(), MonaConfig())
    assert "base_model.model.norm" in find_saved(model, ["norm"])
    assert not [name for name in find_saved(model, ["norm"]) if ".mona" in name]
    assert find_saved(model, ["attention", "down", "norm.norm", "pointwise", "default"]) == []
    with_ssf = get_peft_model(TIMM.build(), SSFConfig(exclude_modules=["blocks.0"]))
    assert find_saved(with_ssf.base_model.model, ["blocks.0.norm1"]) == ["blocks.0.norm1"]


def test_a_later_adapter_may_save_what_an_earlier_one_hooked():
    model = get_peft_model(SWIN.build(), MonaConfig(bottleneck_dim=4)).eval()
    randomise(model)
    first = run(model, images())
    for number, name in enumerate(["layernorm_after", "patch_embeddings"]):
        model.add_adapter(f"later{number}", MonaConfig(bottleneck_dim=4, modules_to_save=[name]))
        model.set_adapter(f"later{number}")
        randomise(model, f".later{number}.", std=0.3)
        assert not torch.allclose(run(model.eval(), images()), first)
        model.set_adapter("default")
        assert torch.equal(run(model.eval(), images()), first)


@pytest.mark.parametrize(
    ("names", "error"), [(["encoder.layers"], TypeError), (["blocks"], TypeError), ([""], ValueError)]
)
def test_what_cannot_be_saved_is_refused_before_anything_changes(names, error):
    base = SWIN.build()
    before = list(base.state_dict())
    with pytest.raises(error, match="modules_to_save"):
        get_peft_model(base, SCTConfig(modules_to_save=names))
    assert list(base.state_dict()) == before


def test_modules_with_adapters_of_another_adapter_are_refused():
    model = get_peft_model(SWIN.build(), MonaConfig())
    before = list(model.state_dict())
    with pytest.raises(ValueError, match="holds adapters"):
        model.add_adapter("second", MonaConfig(modules_to_save=["layers.0"]))
    assert list(model.state_dict()) == before and list(model.peft_config) == ["default"]


@pytest.mark.parametrize(
    ("config", "saved"),
    [
        (MonaConfig, "layers.0.blocks.0"),
        (SSFConfig, "layers.0.blocks.0"),
        (SSFConfig, "swin.layernorm"),
        (SSFConfig, "layers.0.blocks.0.mlp"),
        (BottleneckConfig, "layers.0.blocks.0.mlp"),
        (BottleneckConfig, "layers.0.blocks.0.mlp.fc2"),
        (LoRandConfig, "blocks.1.attention.o_proj"),
    ],
)
def test_what_another_adapter_saves_is_not_adapted(config, saved, tmp_path):
    """Neither the copies nor the original: the later adapter's file would not fit a model of its own."""
    tiny = TINY_MODELS["swin-classifier"]
    model = get_peft_model(tiny.build(), config(modules_to_save=[saved]), "first")
    before = list(model.state_dict())
    with pytest.raises(ValueError, match=rf"{saved}' cannot be adapted.*\['first'\]"):
        model.add_adapter("second", config())
    assert list(model.state_dict()) == before and list(model.peft_config) == ["first"]
    model.add_adapter("second", config(exclude_modules=[saved]))
    assert not any(f"{saved}." in key and ".second." in key for key in model.state_dict())
    randomise(model)
    model.save_pretrained(tmp_path)
    for name in ("first", "second"):
        model.set_adapter(name)
        loaded = PeftModel.from_pretrained(tiny.build(), tmp_path / name).eval()
        assert torch.equal(predict(loaded, images()), predict(model.eval(), images()))


def test_blocks_that_another_adapter_saves_are_counted_once():
    model = get_peft_model(SWIN.build(), MonaConfig(modules_to_save=["layers.0.blocks.0"]), "first")
    model.add_adapter("second", MonaConfig(layers_to_transform=[1]))
    assert {key.split(".mona.")[0] for key in model.state_dict() if ".second." in key} == {
        "base_model.model.swin.encoder.layers.0.blocks.1"
    }
    with pytest.raises(ValueError, match=r"blocks\.0' cannot be adapted"):
        model.add_adapter("third", MonaConfig(layers_to_transform=[0]))


@pytest.mark.parametrize("config", [MonaConfig, SSFConfig])
def test_a_head_trains_or_not_as_before_another_adapter_came(config, tmp_path):
    def trained(model):
        return {name: p.requires_grad for name, p in model.named_parameters() if ".default." in name}

    model = get_peft_model(SWIN.build(), config(modules_to_save=["classifier"]))
    model.save_pretrained(tmp_path)
    before = trained(model)
    model.load_adapter(tmp_path, "frozen")
    assert trained(model) == before and all(before.values())
    frozen = PeftModel.from_pretrained(SWIN.build(), tmp_path)
    frozen.add_adapter("trained", config(modules_to_save=["classifier"]))
    assert not any(trained(frozen).values())
    frozen.set_adapter("trained")
    assert frozen.base_model.model.classifier.modules_to_save["trained"].weight.requires_grad
