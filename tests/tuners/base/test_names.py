"""Names of adapters that are parts of keys, and of the user's modules that begin like the keys of adapters."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, inject_adapter_in_model

import mona_peft
from mona_peft import MonaConfig
from mona_peft.compat import ModulesToSaveWrapper
from tests.peft_conformance.methods import OWN
from tests.support.models import images
from tests.support.subjects import SUBJECTS, run

pytestmark = pytest.mark.filterwarnings("ignore")

SWIN, VIT = SUBJECTS["swin"], SUBJECTS["vit"]
VARIANTS = [
    *((method.name, method.config, method.options) for method in OWN),
    ("mona", MonaConfig, {"variant": "v3", "norm": "batch", "kernel_sizes": (3, 5, 7, 9)}),
]


def parts(model):
    return {part for key in model.state_dict() for part in key.split(".")}


@pytest.mark.parametrize(("name", "config", "options"), VARIANTS)
def test_every_part_of_a_key_is_refused_before_anything_changes(name, config, options):
    base = VIT.build()
    keys, trains = list(base.state_dict()), [p.requires_grad for p in base.parameters()]
    full = config(modules_to_save=["classifier"], **options)
    taken = parts(get_peft_model(VIT.build(), full, "tried")) - {"tried", "base_model"}
    assert {"model", "vit", "0", "classifier", "weight"} <= taken
    for part in sorted(taken):
        with pytest.raises(ValueError, match=f"named '{part}'.*'adapter-{part}'"):
            get_peft_model(base, full, part)
    assert list(base.state_dict()) == keys and [p.requires_grad for p in base.parameters()] == trains


def test_the_other_adapters_keep_their_files(tmp_path):
    config = MonaConfig(bottleneck_dim=4, modules_to_save=["classifier"])
    model = get_peft_model(SWIN.build(), config)
    model.save_pretrained(tmp_path)
    saved, keys = get_peft_model_state_dict(model).keys(), list(model.state_dict())
    for name in ("mona", "up", "0", "layers", "classifier", "model"):
        with pytest.raises(ValueError, match=f"named '{name}'"):
            model.add_adapter(name, config)
        with pytest.raises(ValueError, match=f"named '{name}'"):
            model.load_adapter(tmp_path, name)
        with pytest.raises(ValueError, match=f"named '{name}'"):
            PeftModel.from_pretrained(SWIN.build(), tmp_path, adapter_name=name)
    assert list(model.state_dict()) == keys and list(model.peft_config) == ["default"]
    model.load_adapter(tmp_path, "adapter-0")
    assert get_peft_model_state_dict(model).keys() == saved
    assert get_peft_model_state_dict(model, adapter_name="adapter-0").keys() == saved


def test_with_transformers_own_methods(tmp_path):
    model = SWIN.build()
    with pytest.raises(ValueError, match="named 'norm'"):
        model.add_adapter(MonaConfig(bottleneck_dim=4), "norm")
    model.add_adapter(MonaConfig(bottleneck_dim=4), "first")
    saved = get_peft_model_state_dict(model, adapter_name="first").keys()
    with pytest.raises(ValueError, match="named 'mona'"):
        model.add_adapter(MonaConfig(bottleneck_dim=4), "mona")
    assert list(model.peft_config) == ["first"]
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="named 'swin'"):
        model.load_adapter(str(tmp_path), "swin")
    model.load_adapter(str(tmp_path), "second")
    assert get_peft_model_state_dict(model, adapter_name="first").keys() == saved
    assert get_peft_model_state_dict(model, adapter_name="second").keys() == saved


def test_names_of_adapters_of_other_methods_count():
    base = inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj"]), VIT.build(), "mona")
    with pytest.raises(ValueError, match="named 'mona'"):
        inject_adapter_in_model(MonaConfig(), base, "own")
    shared = inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj"]), VIT.build())
    inject_adapter_in_model(MonaConfig(), shared)  # adapters of two methods may share a name
    mona_peft.SSFModel(shared, mona_peft.SSFConfig(), "default")


@pytest.mark.parametrize("method", OWN, ids=lambda method: method.name)
def test_a_module_of_the_users_may_begin_like_the_adapters(method, tmp_path):
    def build():
        model = torch.nn.Module()
        model.forward = lambda x: getattr(model, f"{method.prefix}net")(x)
        model.add_module(f"{method.prefix}net", VIT.build())
        return model.eval()

    model = method.adapted(VIT, build())
    expected, saved = run(model, images()), get_peft_model_state_dict(model)
    assert not any("default" in key for key in saved)
    model.save_pretrained(tmp_path)
    for name in ("default", "other"):
        loaded = PeftModel.from_pretrained(build(), tmp_path, adapter_name=name).eval()
        assert torch.equal(run(loaded, images()), expected)
    model.load_adapter(tmp_path, "second")
    model.delete_adapter("default")
    assert not any("default" in key for key in model.state_dict())
    assert model.active_adapters == ["second"] and torch.equal(run(model.eval(), images()), expected)
    assert all(m.active_adapters == ["second"] for m in model.modules() if isinstance(m, ModulesToSaveWrapper))
