"""The new members of PEFT's enumeration and the registration of tuners."""

import copy
import pickle
import subprocess
import sys

import pytest
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType

import mona_peft
from mona_peft.registry import add_peft_type, register_tuner


def test_the_member_is_like_any_other():
    member = PeftType.MONA
    assert member is PeftType("MONA") is PeftType["MONA"] and member in list(PeftType)
    assert isinstance(member, PeftType) and member == "MONA" and member.name == member.value == "MONA"
    assert pickle.loads(pickle.dumps(member)) is member
    assert copy.deepcopy(member) is member
    assert len({*PeftType}) == len(PeftType)


def test_registered_with_peft():
    assert PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.MONA] is mona_peft.MonaConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING[PeftType.MONA] is mona_peft.MonaModel
    assert PEFT_TYPE_TO_PREFIX_MAPPING[PeftType.MONA] == "mona_"


def test_registering_twice_is_harmless():
    members = list(PeftType)
    assert add_peft_type("MONA") is PeftType.MONA
    assert register_tuner("mona", mona_peft.MonaConfig, mona_peft.MonaModel) is False
    assert list(PeftType) == members


def test_a_method_of_peft_is_kept():
    class Other(PeftConfig):
        pass

    with pytest.warns(UserWarning, match="PEFT already has a method 'mona'"):
        assert register_tuner("mona", Other, mona_peft.MonaModel) is False
    assert PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.MONA] is mona_peft.MonaConfig


def test_importing_a_second_time_and_with_a_peft_that_has_mona():
    code = """
import importlib, sys, warnings
from peft.utils import PeftType
from mona_peft.registry import add_peft_type
import mona_peft
first = mona_peft.MonaConfig
for name in [name for name in sys.modules if name.startswith("mona_peft")]:
    del sys.modules[name]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    again = importlib.import_module("mona_peft")
assert again.MonaConfig is not first and again.MonaConfig().peft_type is PeftType.MONA
assert any("already has a method" in str(w.message) for w in caught)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_import_needs_no_training_packages():
    """Whoever only wants `MonaConfig` needs torch, transformers and PEFT."""
    code = """
import sys
for name in ("datasets", "evaluate", "torchvision", "sklearn", "skimage", "scipy", "matplotlib", "timm"):
    sys.modules[name] = None  # importing it fails, looking for it finds nothing
from peft import get_peft_model
from transformers import ViTConfig, ViTModel
import mona_peft
model = get_peft_model(ViTModel(ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=16, image_size=16, patch_size=8)), mona_peft.MonaConfig())
assert not {m for m in sys.modules if m.startswith("mona_peft.finetuning")}
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_attributes_are_refused():
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        mona_peft.lode  # noqa: B018
