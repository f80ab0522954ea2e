"""The life cycle of a Mona adapter, over the whole matrix of tiny models."""

import copy
import json
import warnings

import pytest
import torch
from peft import (
    AutoPeftModel,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
)
from safetensors.torch import load_file

import mona_peft
from mona_peft import Mona, MonaConfig, MonaLayer
from tests.support.models import TINY_MODELS, features, images, predict, randomise

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(params=list(TINY_MODELS))
def tiny(request):
    return TINY_MODELS[request.param]


def adapt(tiny, **options):
    model = get_peft_model(tiny.build(), MonaConfig(bottleneck_dim=8, modules_to_save=tiny.modules_to_save, **options))
    return model.eval()


def adapted(tiny, **options):
    model = adapt(tiny, **options)
    randomise(model)
    return model


def snapshot(model):
    """All that unloading must give back: classes, hooks, attributes, state-dict keys."""
    return {
        name: (
            type(module),
            sorted(module.__dict__),
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            sorted(module._modules),
        )
        for name, module in model.named_modules()
    }, list(model.state_dict())


def test_starts_as_the_base_model(tiny):
    x = images()
    before = predict(tiny.build(), x)
    assert torch.equal(predict(adapt(tiny), x), before)


def test_only_adapters_and_head_get_gradients(tiny):
    model = adapted(tiny)
    features(model(pixel_values=images())).square().sum().backward()
    for name, parameter in model.named_parameters():
        expected = "mona_" in name or "modules_to_save" in name
        assert parameter.requires_grad == expected, name
        assert (parameter.grad is not None and bool(parameter.grad.any())) == expected, name


def test_every_block_holds_two_adapters(tiny):
    model = adapt(tiny)
    assert sum(isinstance(m, MonaLayer) for m in model.modules()) == tiny.blocks
    assert sum(isinstance(m, Mona) for m in model.modules()) == 2 * tiny.blocks


def test_saves_and_loads_identically(tiny, tmp_path):
    model = adapted(tiny)
    if tiny.head:
        head = getattr(model.base_model.model, tiny.head).modules_to_save["default"]
        torch.nn.init.normal_(head.weight)
    x = images()
    model.save_pretrained(tmp_path)
    torch.manual_seed(99)
    loaded = PeftModel.from_pretrained(tiny.build(), tmp_path).eval()
    saved, again = model.state_dict(), loaded.state_dict()
    assert saved.keys() == again.keys()
    assert all(torch.equal(saved[key], again[key]) for key in saved)
    torch.testing.assert_close(predict(loaded, x), predict(model, x), rtol=1e-6, atol=1e-6)
    assert not any(p.requires_grad for p in loaded.parameters())


def test_in_proportion_to_the_stream_it_starts_as_the_base_model_saves_and_loads(tiny, tmp_path):
    x = images()
    assert torch.equal(predict(adapt(tiny, output_scale="stream"), x), predict(tiny.build().eval(), x))
    model = adapted(tiny, output_scale="stream")
    expected = predict(model, x)
    assert not torch.allclose(expected, predict(adapted(tiny), x), atol=1e-4), "it is no setting without an effect"
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["output_scale"] == "stream"
    assert torch.equal(predict(PeftModel.from_pretrained(tiny.build(), tmp_path).eval(), x), expected)
    exported = torch.export.export(Held(model), (x,))
    torch.testing.assert_close(exported.module()(x), expected, rtol=1e-4, atol=1e-5)


class Held(torch.nn.Module):
    """A model that gives one tensor."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return features(self.model(pixel_values=x))


def test_loads_under_another_name_and_for_training(tiny, tmp_path):
    model = adapted(tiny)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny.build(), tmp_path, adapter_name="other", is_trainable=True).eval()
    torch.testing.assert_close(predict(loaded, images()), predict(model, images()), rtol=1e-6, atol=1e-6)
    assert all(p.requires_grad for n, p in loaded.named_parameters() if ".other." in n)


def test_low_cpu_mem_usage(tiny, tmp_path):
    model = adapted(tiny)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny.build(), tmp_path, low_cpu_mem_usage=True).eval()
    assert not any(p.is_meta for p in loaded.parameters())
    torch.testing.assert_close(predict(loaded, images()), predict(model, images()), rtol=1e-6, atol=1e-6)


def test_checkpoint_holds_the_adapter_alone(tiny, tmp_path):
    adapted(tiny).save_pretrained(tmp_path)
    keys = list(load_file(tmp_path / "adapter_model.safetensors"))
    assert all(".mona.mona_" in key or f".{tiny.head}." in key for key in keys)
    assert not any("default" in key for key in keys)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "MONA" and config["bottleneck_dim"] == 8


def test_state_dict_keys_are_a_contract():
    model = adapt(TINY_MODELS["swin-classifier"])
    prefix = "base_model.model.swin.encoder.layers.1.blocks.0.mona.mona_attention.default."
    assert [key.removeprefix(prefix) for key in model.state_dict() if key.startswith(prefix)] == [
        "norm.norm_scale",
        "norm.input_scale",
        "norm.norm.weight",
        "norm.norm.bias",
        "down.weight",
        "down.bias",
        "depthwise.0.weight",
        "depthwise.0.bias",
        "depthwise.1.weight",
        "depthwise.1.bias",
        "depthwise.2.weight",
        "depthwise.2.bias",
        "pointwise.weight",
        "pointwise.bias",
        "up.weight",
        "up.bias",
    ]


def test_auto_peft_model(tiny, tmp_path):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    tiny.build().save_pretrained(base)
    model = get_peft_model(tiny.cls.from_pretrained(base).eval(), MonaConfig(modules_to_save=tiny.modules_to_save))
    randomise(model)
    model.save_pretrained(adapter)
    loaded = AutoPeftModel.from_pretrained(adapter).eval()
    assert type(loaded.get_base_model()).__name__ == tiny.cls.__name__
    torch.testing.assert_close(predict(loaded, images()), predict(model, images()), rtol=1e-6, atol=1e-6)
    config = PeftConfig.from_pretrained(adapter)
    assert isinstance(config, MonaConfig) and config.kernel_sizes == (3, 5, 7)


def test_disabled_it_is_the_base_model(tiny):
    before = predict(tiny.build(), images())
    model = adapted(tiny)
    assert not torch.allclose(predict(model, images()), before)
    with model.disable_adapter():
        assert torch.equal(predict(model, images()), before)
    assert not torch.allclose(predict(model, images()), before)


def test_unload_gives_the_base_model_back(tiny):
    base = tiny.build()
    before, output = snapshot(base), predict(base, images())
    model = get_peft_model(base, MonaConfig(modules_to_save=None))
    randomise(model)
    predict(model, images())
    unloaded = model.unload()
    assert unloaded is base
    assert snapshot(unloaded) == before
    assert torch.equal(predict(unloaded, images()), output)


def test_unload_works_after_copying(tiny):
    before = predict(tiny.build(), images())
    original = get_peft_model(tiny.build(), MonaConfig())
    randomise(original)
    expected = predict(original.eval(), images())
    copied = copy.deepcopy(original)
    randomise(copied, std=1.0, seed=11)
    assert torch.equal(predict(original, images()), expected), "the copy has its own adapters"
    assert not torch.allclose(predict(copied, images()), expected)
    assert torch.equal(predict(copied.unload(), images()), before)
    assert torch.equal(predict(original, images()), expected), "unloading the copy leaves the original"


def test_several_adapters(tiny):
    x = images()
    base = predict(tiny.build(), x)
    model = adapted(tiny)
    first = predict(model, x)
    model.add_adapter("second", MonaConfig(bottleneck_dim=4, kernel_sizes=(3,), init_weights=False))
    assert torch.equal(predict(model, x), first), "a new adapter is not active"
    model.set_adapter("second")
    second = predict(model.eval(), x)
    assert not torch.allclose(second, first) and not torch.allclose(second, base)
    model.set_adapter("default")
    torch.testing.assert_close(predict(model.eval(), x), first, rtol=0, atol=0)
    model.delete_adapter("second")
    assert torch.equal(predict(model, x), first)
    assert not any(".second." in key for key in model.state_dict())


def test_active_adapters_deltas_add(tiny):
    torch.manual_seed(5)
    model = get_peft_model(tiny.build(), MonaConfig(layers_to_transform=0, positions=("attention",)))
    model.add_adapter("second", MonaConfig(layers_to_transform=0, positions=("attention",), bottleneck_dim=4))
    randomise(model)
    layer = next(m for m in model.modules() if isinstance(m, MonaLayer))
    layout = mona_peft.blocks.layout.TokenLayout(4, 4)
    x = torch.randn(2, 16, layer.dim)
    deltas = {}
    for names in (["default"], ["second"], ["default", "second"]):
        model.base_model.set_adapter(names)
        layer.eval()
        deltas[tuple(names)] = layer.after_attention(x, layout)
    total = deltas[("default",)] + deltas[("second",)]
    torch.testing.assert_close(deltas[("default", "second")], total, rtol=0, atol=0)
    assert not torch.allclose(deltas[("default",)], deltas[("second",)])


@pytest.mark.parametrize("call", ["merge_and_unload", "merge_adapter"])
def test_merging_is_refused(tiny, call):
    model = adapted(tiny)
    before = predict(model, images())
    with pytest.raises(ValueError, match=r"unload\(\).*export"):
        getattr(model, call)()
    assert torch.equal(predict(model, images()), before)


def test_inject_adapter_in_model(tiny):
    before = predict(tiny.build(), images())
    model = inject_adapter_in_model(MonaConfig(), tiny.build())
    assert torch.equal(predict(model, images()), before)
    randomise(model)
    assert not torch.allclose(predict(model, images()), before)


def test_injection_from_a_state_dict(tiny):
    model = inject_adapter_in_model(MonaConfig(layers_to_transform=[1]), tiny.build())
    state = get_peft_model_state_dict(model)
    again = inject_adapter_in_model(MonaConfig(layers_to_transform=[1]), tiny.build(), state_dict=state)
    assert list(again.state_dict()) == list(model.state_dict())


def test_summary_and_trainable_parameters(tiny):
    model = adapt(tiny)
    counts = mona_peft.summary(model)
    trainable, total = model.get_nb_trainable_parameters()
    assert (counts.trainable, counts.total) == (trainable, total)
    assert counts.base.trainable == 0
    assert counts.adapters.trainable == counts.adapters.total == sum(c.total for c in counts.blocks.values())
    assert counts.adapters.total == sum(p.numel() for n, p in model.named_parameters() if "mona_" in n)
    assert len(counts.blocks) == tiny.blocks
    assert bool(counts.head.trainable) == bool(tiny.head)
    assert f"{trainable:,}" in str(counts)


def test_config_of_the_user_is_unchanged(tiny):
    config = MonaConfig(modules_to_save=tiny.modules_to_save)
    before = config.to_dict()
    get_peft_model(tiny.build(), config)
    assert config.to_dict() == before


def test_warns_of_a_frozen_head(tiny):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        get_peft_model(tiny.build(), MonaConfig())
    frozen = [w for w in caught if "will be frozen" in str(w.message)]
    assert len(frozen) == (1 if tiny.head else 0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        get_peft_model(tiny.build(), MonaConfig(modules_to_save=tiny.modules_to_save))
    assert not [w for w in caught if "will be frozen" in str(w.message)]
