"""Weights that do not belong or do not fit: refused before any is copied, and no adapter in use is lost."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model, set_peft_model_state_dict
from peft.helpers import disable_input_dtype_casting
from safetensors.torch import load_file, save_file

from mona_peft import BottleneckConfig, MonaConfig, SSFConfig, VPTConfig
from tests.support.models import images, randomise
from tests.support.subjects import SUBJECTS, run

pytestmark = pytest.mark.filterwarnings("ignore")

SWIN = SUBJECTS["swin"]
CONFIGS = [MonaConfig, SSFConfig, VPTConfig]
FILE = "adapter_model.safetensors"
BASE_KEY = "base_model.model.swin.layernorm.weight"


def adapted(config):
    model = get_peft_model(SWIN.build(), config(modules_to_save=["classifier"])).eval()
    randomise(model, f".{config.method}_")
    return model


def saved(model, path, change=lambda weights: weights):
    """Save `model` to `path`, its weights changed."""
    model.save_pretrained(path)
    save_file(change(load_file(path / FILE)), path / FILE)
    return path


def misfit(weights):
    key = next(key for key in weights if "encoder" in key)
    return {**weights, key: torch.zeros(*weights[key].shape, 2)}


def foreign(weights):
    return {**weights, BASE_KEY: torch.full((32,), 7.0)}


def unplaced(weights):
    key = next(key for key in weights if "encoder" in key)
    return {**weights, key.replace("layers.0", "layers.9"): weights[key].clone()}


DAMAGES = {"misfit": (misfit, "do not fit"), "foreign": (foreign, BASE_KEY), "unplaced": (unplaced, r"layers\.9")}
damages = pytest.mark.parametrize(("change", "message"), DAMAGES.values(), ids=DAMAGES)
configs = pytest.mark.parametrize("config", CONFIGS)


@configs
@damages
@pytest.mark.parametrize("options", [{}, {"is_trainable": True}, {"low_cpu_mem_usage": True}], ids=str)
def test_a_failed_load_removes_only_what_it_made(config, change, message, options, tmp_path):
    model = adapted(config)
    bad = saved(model, tmp_path, change)
    before, weights = run(model, images()), {k: v.clone() for k, v in model.state_dict().items()}
    if "low_cpu_mem_usage" not in options:  # PEFT would take the new weights' memory for an adapter in use
        with pytest.raises(ValueError, match=message):
            model.load_adapter(bad, "default", **options)
    with pytest.raises(ValueError, match=message):
        model.load_adapter(bad, "new", **options)
    assert list(model.peft_config) == ["default"]
    after = model.state_dict()
    assert after.keys() == weights.keys() and all(torch.equal(after[key], weights[key]) for key in weights)
    assert torch.equal(run(model, images()), before)
    randomise(model, f".{config.method}_", seed=8)  # it still has an effect
    assert not torch.equal(run(model, images()), before)


@configs
@damages
def test_an_adapter_added_before_stays(config, change, message, tmp_path):
    model = adapted(config)
    bad = saved(model, tmp_path, change)
    model.add_adapter("added", config(modules_to_save=["classifier"]))
    with pytest.raises(ValueError, match=message):
        model.load_adapter(bad, "added")
    assert list(model.peft_config) == ["default", "added"]


@configs
def test_an_adapter_that_was_made_from_a_file_and_trained_stays(config, tmp_path):
    bad = saved(adapted(config), tmp_path, misfit)
    made = get_peft_model(SWIN.build(), config.from_pretrained(tmp_path))
    randomise(made, f".{config.method}_")  # in place, as an optimizer does
    expected = run(made.eval(), images())
    with pytest.raises(ValueError, match="do not fit"):
        made.load_adapter(bad, "default")
    assert torch.equal(run(made, images()), expected)


@configs
@damages
def test_a_new_model_is_left_as_it_was(config, change, message, tmp_path):
    bad = saved(adapted(config), tmp_path, change)
    base = SWIN.build()
    before, output = {k: v.clone() for k, v in base.state_dict().items()}, run(base, images())
    with pytest.raises(ValueError, match=message):
        PeftModel.from_pretrained(base, bad)
    after = base.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in before)
    assert torch.equal(run(base, images()), output)


@configs
@damages
def test_injected_adapters_stay(config, change, message):
    model = inject_adapter_in_model(config(), SWIN.build()).eval()
    randomise(model, f".{config.method}_")
    expected = run(model, images())
    weights = {k: v for k, v in model.state_dict().items() if f".{config.method}_" in k}
    weights = {key.replace(".default.", "."): value for key, value in weights.items()}
    changed = change(weights)
    if BASE_KEY in changed:
        changed[BASE_KEY.removeprefix("base_model.model.")] = changed.pop(BASE_KEY)
    with pytest.raises(ValueError, match=message.removeprefix("base_model.model.")):
        set_peft_model_state_dict(model, changed)
    assert torch.equal(run(model, images()), expected)
    assert not set_peft_model_state_dict(model, weights).unexpected_keys
    assert torch.equal(run(model, images()), expected)


@pytest.mark.parametrize("config", [*CONFIGS, LoraConfig])
def test_another_number_of_classes(config, tmp_path):
    options = {"target_modules": ["q_proj"]} if config is LoraConfig else {}
    model = get_peft_model(SWIN.build(), config(modules_to_save=["classifier"], **options))
    randomise(model, "encoder")
    model.save_pretrained(tmp_path)
    with pytest.raises((ValueError, RuntimeError), match=r"classifier"):
        PeftModel.from_pretrained(SWIN.build(classes=10), tmp_path)
    base = SWIN.build(classes=10)
    head = base.classifier.weight.clone()
    other = PeftModel.from_pretrained(base, tmp_path, ignore_mismatched_sizes=True)
    mine, theirs = model.state_dict(), other.state_dict()
    same = [key for key in mine if "encoder" in key and "base_layer" not in key and ".default." in key]
    assert same and all(torch.equal(mine[key], theirs[key]) for key in same)
    assert torch.equal(theirs["base_model.model.classifier.modules_to_save.default.weight"], head)


def test_no_check_is_left_on_the_model(tmp_path):
    model = adapted(MonaConfig)
    path = saved(model, tmp_path)
    model.load_adapter(path, "second")
    with pytest.raises(ValueError, match="do not fit"):
        model.load_adapter(saved(model, tmp_path, misfit), "third")
    assert not model._load_state_dict_pre_hooks
    model.load_state_dict(model.state_dict())


@pytest.mark.parametrize("config", [*CONFIGS, LoraConfig])
def test_input_casting_can_be_switched_off(config):
    options = {"target_modules": ["q_proj"]} if config is LoraConfig else {}
    model = get_peft_model(SWIN.build(), config(**options)).eval()
    before = run(model, images())
    with disable_input_dtype_casting(model):
        assert torch.equal(run(model, images()), before)


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("config", [*CONFIGS, BottleneckConfig])
def test_loading_with_little_memory_rounds_no_more_than_loading_does(config, autocast, tmp_path):
    def half():
        return SWIN.build().bfloat16()

    model = get_peft_model(half(), config())
    randomise(model, f".{config.method}_")
    model.save_pretrained(tmp_path)
    options = {"autocast_adapter_dtype": autocast}
    usual = PeftModel.from_pretrained(half(), tmp_path, **options)
    lean = PeftModel.from_pretrained(half(), tmp_path, low_cpu_mem_usage=True, **options)
    expected, weights = usual.state_dict(), lean.state_dict()
    assert all(weights[key].dtype == tensor.dtype for key, tensor in expected.items())
    assert all(torch.equal(weights[key], tensor) for key, tensor in expected.items())
    assert torch.equal(run(lean.eval(), images().bfloat16()), run(usual.eval(), images().bfloat16()))
