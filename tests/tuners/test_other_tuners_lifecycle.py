"""The life cycle of the tuners that Mona is compared with, one matrix over tuners and tiny models."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import Any

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
from safetensors.torch import load_file, save_file

import mona_peft
from mona_peft import (
    AdaptFormerConfig,
    BottleneckConfig,
    ConvpassConfig,
    LoRandConfig,
    SCTConfig,
    SSFConfig,
    VPTConfig,
)
from mona_peft.finetuning.methods import METHODS
from tests.support.models import TINY_MODELS, features, images, predict, randomise

pytestmark = pytest.mark.filterwarnings("ignore")


@dataclass(frozen=True)
class Case:
    """One tuner of the matrix.

    Args:
        config: Its configuration class.
        options: Of the first adapter.
        other: Of a second, differently made adapter.
        models: The models of the matrix.
        starts_as_base: Whether a new adapter leaves the model as it was.
        adds: Whether what its layers add is a sum over the active adapters.
        delta: What gives that in a layer that is a child of its block.
    """

    config: type
    options: dict[str, Any]
    other: dict[str, Any]
    models: tuple[str, ...] = ("swin-classifier", "swin-backbone", "vit-classifier", "vit-model")
    starts_as_base: bool = True
    adds: bool = True
    delta: str = "beside_mlp"

    @property
    def prefix(self) -> str:
        return f"{self.config.method}_"

    def make(self, tiny, **options):
        return self.config(**{"modules_to_save": tiny.modules_to_save, **self.options, **options})

    def adapt(self, tiny, model=None, **options):
        return self.calibrate(get_peft_model(model or tiny.build(), self.make(tiny, **options)).eval())

    def calibrate(self, model, name="default"):
        """Fit an adapter to training images, where the method has to before it runs."""
        calibrate = METHODS[self.config.method].calibrate
        if calibrate is not None:
            calibrate(model, [({"pixel_values": images(4, seed=6).to(model.dtype)}, torch.tensor([0, 2, 2, 1]))], name)
        return model

    def adapted(self, tiny, **options):
        model = self.adapt(tiny, **options)
        randomise(model, f".{self.prefix}")
        return model


CASES = {
    "bottleneck": Case(BottleneckConfig, {"bottleneck_dim": 8}, {"bottleneck_dim": 4, "init_weights": False}),
    "lorand": Case(LoRandConfig, {"lorand_beta": 4}, {"lorand_alpha": 1, "init_weights": False}),
    "adaptformer": Case(
        AdaptFormerConfig,
        {"bottleneck_dim": 8},
        {"bottleneck_dim": 4, "init_weights": False, "adaptformer_scale": 1.0},
    ),
    # Only models whose every layer has a part in the output.
    "ssf": Case(SSFConfig, {}, {"init_weights": False}, ("swin-classifier", "swin-model", "vit-classifier")),
    "vpt": Case(VPTConfig, {"vpt_tokens": 3}, {"vpt_tokens": 2}, starts_as_base=False, adds=False),
    "convpass": Case(
        ConvpassConfig,
        {"bottleneck_dim": 6, "convpass_scale": 0.5},
        {"bottleneck_dim": 4, "init_weights": False, "positions": "attention"},
        delta="beside_attention",
    ),
    "sct": Case(
        SCTConfig,
        {"num_channels": 6, "positions": ("attention", "mlp")},
        {"num_channels": 5, "init_weights": False, "sct_scale": 1.0},
        delta="after_attention",
    ),
}


PAIRS = [(case, model) for case in CASES for model in CASES[case].models]


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request):
    case, model = request.param
    return CASES[case], TINY_MODELS[model]


def those(flag):
    """The part of the matrix whose tuners have a capability."""
    return pytest.mark.parametrize(
        "pair", [p for p in PAIRS if getattr(CASES[p[0]], flag)], ids="-".join, indirect=True
    )


def snapshot(model):
    """All that unloading must give back: classes, hooks, attributes, state-dict keys."""
    return {
        name: (type(m), sorted(m.__dict__), len(m._forward_hooks), len(m._forward_pre_hooks), sorted(m._modules))
        for name, m in model.named_modules()
    }, list(model.state_dict())


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


@those("starts_as_base")
def test_starts_as_the_base_model(pair):
    case, tiny = pair
    before = predict(tiny.build(), images())
    assert torch.equal(predict(case.adapt(tiny), images()), before)
    random = case.adapt(tiny, init_weights=False)
    assert not torch.allclose(predict(random, images()), before)


def test_only_adapters_and_head_get_gradients(pair):
    case, tiny = pair
    model = case.adapted(tiny)
    features(model(pixel_values=images())).square().sum().backward()
    for name, parameter in model.named_parameters():
        expected = f".{case.prefix}" in name or "modules_to_save" in name
        assert parameter.requires_grad == expected, name
        assert (parameter.grad is not None and bool(parameter.grad.any())) == expected, name


def test_saves_and_loads_identically(pair, tmp_path):
    case, tiny = pair
    model = case.adapted(tiny)
    if tiny.head:
        torch.nn.init.normal_(getattr(model.base_model.model, tiny.head).modules_to_save["default"].weight)
    model.save_pretrained(tmp_path)
    torch.manual_seed(99)
    loaded = PeftModel.from_pretrained(tiny.build(), tmp_path).eval()
    saved, again = model.state_dict(), loaded.state_dict()
    assert saved.keys() == again.keys()
    assert all(torch.equal(saved[key], again[key]) for key in saved)
    close(predict(loaded, images()), predict(model, images()))
    assert not any(p.requires_grad for p in loaded.parameters())


def test_checkpoint_holds_the_adapter_alone(pair, tmp_path):
    case, tiny = pair
    case.adapted(tiny).save_pretrained(tmp_path)
    keys = list(load_file(tmp_path / "adapter_model.safetensors"))
    assert keys and all(f".{case.prefix}" in key or f".{tiny.head}." in key for key in keys)
    assert not any("default" in key or "base_layer" in key for key in keys)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == case.config.method.upper()


def test_loads_under_another_name_on_the_meta_device(pair, tmp_path):
    case, tiny = pair
    model = case.adapted(tiny)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(
        tiny.build(), tmp_path, adapter_name="other", is_trainable=True, low_cpu_mem_usage=True
    ).eval()
    assert not any(p.is_meta for p in loaded.parameters())
    close(predict(loaded, images()), predict(model, images()))
    trained = [p.requires_grad for n, p in loaded.named_parameters() if f".{case.prefix}" in n]
    assert trained and all(trained)


def test_auto_peft_model(pair, tmp_path):
    case, tiny = pair
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    tiny.build().save_pretrained(base)
    model = case.adapt(tiny, tiny.cls.from_pretrained(base).eval())
    randomise(model, f".{case.prefix}")
    model.save_pretrained(adapter)
    loaded = AutoPeftModel.from_pretrained(adapter).eval()
    close(predict(loaded, images()), predict(model, images()))
    config = PeftConfig.from_pretrained(adapter)
    assert type(config) is case.config
    assert all(getattr(config, name) == value for name, value in case.options.items())


def test_disabled_it_is_the_base_model(pair):
    case, tiny = pair
    before = predict(tiny.build(), images())
    model = case.adapted(tiny)
    assert not torch.allclose(predict(model, images()), before)
    with model.disable_adapter():
        assert torch.equal(predict(model, images()), before)
    assert not torch.allclose(predict(model, images()), before)


def test_unload_gives_the_base_model_back(pair):
    case, tiny = pair
    base = tiny.build()
    before, output = snapshot(base), predict(base, images())
    model = case.adapt(tiny, base, modules_to_save=None)
    randomise(model, f".{case.prefix}")
    predict(model, images())
    assert model.unload() is base
    assert snapshot(base) == before
    assert torch.equal(predict(base, images()), output)


def test_copies_have_their_own_adapters(pair):
    case, tiny = pair
    before = predict(tiny.build(), images())
    original = case.adapted(tiny, modules_to_save=None)
    expected = predict(original, images())
    copied = copy.deepcopy(original)
    randomise(copied, f".{case.prefix}", std=1.0, seed=11)
    assert not torch.allclose(predict(copied, images()), expected)
    assert torch.equal(predict(copied.unload(), images()), before)
    assert torch.equal(predict(original, images()), expected)


def test_several_adapters(pair):
    case, tiny = pair
    model = case.adapted(tiny)
    first = predict(model, images())
    model.add_adapter("second", case.config(**case.other))
    assert torch.equal(predict(model, images()), first), "a new adapter is not active"
    case.calibrate(model, "second")
    model.set_adapter("second")
    assert not torch.allclose(predict(model.eval(), images()), first)
    model.set_adapter("default")
    assert torch.equal(predict(model.eval(), images()), first)
    model.delete_adapter("second")
    assert torch.equal(predict(model, images()), first)
    assert not any(".second." in key for key in model.state_dict())


@those("adds")
def test_deltas_of_active_adapters_add(pair):
    case, tiny = pair
    model = case.adapt(tiny, modules_to_save=None)
    model.add_adapter("second", case.config(**case.other))
    case.calibrate(model, "second")
    randomise(model, f".{case.prefix}")
    layers = [m for m in model.modules() if isinstance(m, model.base_model.tuner_layer_cls)]
    layer = next(m for m in layers if not hasattr(m, "base_layer") or isinstance(m.base_layer, torch.nn.Linear))
    outputs = {}
    for names in (["default"], ["second"], ["default", "second"]):
        model.base_model.set_adapter(names)
        outputs[tuple(names)] = added(layer.eval(), case.delta)
    total = outputs[("default",)] + outputs[("second",)]
    torch.testing.assert_close(outputs[("default", "second")], total, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(outputs[("default",)], outputs[("second",)])


def added(layer, delta):
    """What a layer's active adapters add for some input."""
    if hasattr(layer, "base_layer"):
        x = torch.randn(2, 16, layer.base_layer.in_features, generator=torch.Generator().manual_seed(2))
        return layer(x) - layer.base_layer(x)
    x = torch.randn(2, 16, layer.dim, generator=torch.Generator().manual_seed(2))
    return getattr(layer, delta)(x, mona_peft.blocks.layout.TokenLayout(4, 4))


@pytest.mark.parametrize("call", ["merge_and_unload", "merge_adapter"])
def test_merging_is_refused(pair, call):
    case, tiny = pair
    model = case.adapted(tiny)
    before = predict(model, images())
    with pytest.raises(ValueError, match=r"unload\(\).*export"):
        getattr(model, call)()
    assert torch.equal(predict(model, images()), before)


def test_injection_with_and_without_a_state_dict(pair):
    case, tiny = pair
    config = case.config(**case.options, layers_to_transform=[1])
    model = inject_adapter_in_model(config, tiny.build())
    state = get_peft_model_state_dict(model)
    again = inject_adapter_in_model(config, tiny.build(), state_dict=state)
    assert list(again.state_dict()) == list(model.state_dict())
    assert sum(f".{case.prefix}" in key for key in model.state_dict()) == len(state) > 0


def test_bf16_base(pair):
    case, tiny = pair
    model = case.calibrate(get_peft_model(tiny.build().bfloat16(), case.make(tiny)).eval())
    randomise(model, f".{case.prefix}")
    assert {p.dtype for n, p in model.named_parameters() if f".{case.prefix}" in n} == {torch.float32}
    output = features(model(pixel_values=images().bfloat16()))
    assert output.dtype == torch.bfloat16
    output.float().square().sum().backward()
    grads = [p.grad for n, p in model.named_parameters() if f".{case.prefix}" in n]
    assert all(g is not None and g.dtype == torch.float32 and bool(g.isfinite().all()) for g in grads)
    in_float = case.calibrate(get_peft_model(tiny.build(), case.make(tiny)).eval())
    randomise(in_float, f".{case.prefix}")
    reference = predict(in_float, images())
    # bfloat16 keeps 8 bits; a few layers of it stay within a tenth of the largest value.
    assert (output.float() - reference).abs().max() < 0.1 * reference.abs().max()


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(pair, use_reentrant):
    case, tiny = pair
    gradients = []
    for checkpointing in (False, True):
        model = case.adapted(tiny)
        if checkpointing:
            model.base_model.model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        features(model(pixel_values=images())).square().sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_misfitting_weights_leave_the_model_as_it_was(pair, tmp_path):
    case, tiny = pair
    case.adapted(tiny).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    name = next(key for key in weights if f".{case.prefix}" in key)
    wrong = {**weights, name: torch.zeros(*weights[name].shape, 2)}
    save_file(wrong, tmp_path / "adapter_model.safetensors")
    base = tiny.build()
    before, output = list(base.state_dict()), predict(base, images())
    with pytest.raises(ValueError, match="do not fit"):
        PeftModel.from_pretrained(base, tmp_path)
    if not tiny.head:  # PEFT leaves its wrapper around a head
        assert list(base.state_dict()) == before
    assert torch.equal(predict(base, images()), output)


def test_summary_counts_what_trains(pair):
    case, tiny = pair
    model = case.adapt(tiny)
    counts = mona_peft.summary(model)
    assert counts.trainable == model.get_nb_trainable_parameters()[0]
    assert counts.base.trainable == 0
    assert counts.adapters.total == sum(p.numel() for n, p in model.named_parameters() if f".{case.prefix}" in n)
    assert len(counts.blocks.keys() - {"elsewhere"}) == tiny.blocks


def test_config_of_the_user_is_unchanged(pair):
    case, tiny = pair
    config = case.make(tiny)
    before = config.to_dict()
    get_peft_model(tiny.build(), config)
    # PEFT itself notes the base model there.
    assert {**config.to_dict(), "base_model_name_or_path": None} == {**before, "base_model_name_or_path": None}


@pytest.mark.slow
@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("model", ["swin-classifier", "vit-classifier"])
def test_compiles_without_graph_breaks(case, model):
    tiny = TINY_MODELS[model]
    adapted = CASES[case].adapted(tiny)
    expected = predict(adapted, images())
    torch._dynamo.reset()
    compiled = torch.compile(adapted, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(predict(compiled, images()), expected, rtol=1e-4, atol=1e-5)
    features(compiled(pixel_values=images())).square().sum().backward()
    grads = [p.grad for n, p in adapted.named_parameters() if f".{CASES[case].prefix}" in n]
    assert grads and all(grad is not None for grad in grads)
