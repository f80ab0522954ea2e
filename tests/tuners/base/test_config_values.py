"""Whatever a configuration file holds: a value that fits, or an error that names the field, before memory is used."""

from __future__ import annotations

import dataclasses
import json
import time

import pytest
from peft import NoMatchingPeftModuleError, PeftConfig, get_peft_model
from torch import nn

import mona_peft
from mona_peft.tuners.base.patterns import check_pattern
from tests.support.subjects import SUBJECTS

pytestmark = pytest.mark.filterwarnings("ignore")

CONFIGS = [getattr(mona_peft, name) for name in mona_peft.__all__ if name.endswith("Config")]
WRONG = [None, True, 3, -1, 1.5, float("nan"), float("inf"), "", "x", [], ["0"], [None], [[1]], {}, {"a": 1}, object()]
FIELDS = [
    (config, field.name)
    for config in CONFIGS
    for field in dataclasses.fields(config)
    if field.name not in ("peft_type", "task_type", "peft_version", "provided_by")  # PEFT's own, and a note
]


@pytest.mark.parametrize(("config", "name"), FIELDS, ids=lambda value: getattr(value, "method", value))
def test_every_wrong_type_is_named(config, name):
    refused = 0
    for value in WRONG:
        try:
            config(**{name: value})
        except ValueError as error:
            refused += 1
            assert name in str(error) or "BlockSpec" in str(error), (value, error)
    assert refused


def test_the_error_from_a_file_names_value_and_remedy(tmp_path):
    mona_peft.MonaConfig().save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "layers_to_transform": ["0"]}))
    with pytest.raises(ValueError, match=r"layers_to_transform=\['0'\] must be .*whole numbers.*adapter_config\.json"):
        PeftConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.method)
def test_values_come_back_from_a_file(config, tmp_path):
    options = {"target_modules": {"blocks.1", "blocks.0"}, "layers_to_transform": [0], "exclude_modules": r"head\d*"}
    before = config(**options)
    before.save_pretrained(tmp_path)
    assert dataclasses.asdict(PeftConfig.from_pretrained(tmp_path)) == dataclasses.asdict(before)


SIZES = [(config, size) for config in CONFIGS for size in config.sizes]


@pytest.mark.parametrize(("config", "size"), SIZES, ids=lambda value: getattr(value, "method", value))
@pytest.mark.parametrize("value", [100_000, 10**9, 10**30])
def test_sizes_are_bounded_before_memory_is_asked_for(config, size, value):
    base = SUBJECTS["swin"].build()
    before = list(base.state_dict())
    start = time.perf_counter()
    with pytest.raises(ValueError, match=rf"{size}={value} is too large for block .* of 16 channels"):
        get_peft_model(base, config(**{size: value}))
    assert list(base.state_dict()) == before
    assert time.perf_counter() - start < 10


def test_the_product_of_ranks_and_kernels_are_bounded():
    with pytest.raises(ValueError, match="lorand_alpha=1000 products of rank lorand_beta=1000"):
        get_peft_model(SUBJECTS["swin"].build(), mona_peft.LoRandConfig(lorand_alpha=1000, lorand_beta=1000))
    for sizes in [(10**6 + 1,), (3,) * 100]:
        with pytest.raises(ValueError, match="kernel_sizes"):
            mona_peft.MonaConfig(kernel_sizes=sizes)


ENDLESS = [
    "(.*)*x",
    "(.+)+x",
    "((a?)*)*x",
    "(a|a)*x",
    "(a|ab)(a|ab)(a|ab)(a|ab)(a|ab)(a|ab)(a|ab)(a|ab)(a|ab)x",
    "a?" * 40 + "a" * 40,
    "(a?){40}a{40}",
    ".*" * 12 + "x",
    "(?:.{0,90}){0,90}x",
    "(?=(.*)*x).*",
    r"(.*)(\1)*x",
]
NONE = ["(", "[", "*", "(" * 5000, "a{99999999999999999999}", "x" * 100_000]
ORDINARY = [
    r".*\.layers\.(0|1)\.blocks\.\d+",
    r"(?!.*head).*layer\.[0-9]+",
    r"layers\.(0|11)\..*",
    r"(layer|block)s?\.\d{1,2}",
    r".*blocks\.(\d+)\..*",
]


@pytest.mark.parametrize("pattern", [*ENDLESS, *NONE], ids=lambda pattern: pattern[:20])
@pytest.mark.parametrize("name", ["target_modules", "exclude_modules"])
def test_patterns_that_might_not_end_are_refused(name, pattern):
    with pytest.raises(ValueError, match=name):
        mona_peft.MonaConfig(**{name: pattern})


@pytest.mark.parametrize("pattern", ORDINARY)
def test_ordinary_patterns_are_allowed(pattern):
    check_pattern("target_modules", pattern)


def test_names_of_modules_to_save_are_no_patterns():
    start = time.perf_counter()
    get_peft_model(SUBJECTS["timm-vit"].build(), mona_peft.MonaConfig(modules_to_save=["(.*)*x"]))
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["nothing"]},
        {"exclude_modules": r".*"},
        {"layers_pattern": "none", "layers_to_transform": 0},
    ],
)
def test_no_match_is_pefts_own_error(options):
    with pytest.raises(NoMatchingPeftModuleError, match="blocks"):
        get_peft_model(SUBJECTS["timm-vit"].build(), mona_peft.MonaConfig(**options))
    with pytest.raises(NoMatchingPeftModuleError, match="has no block that can be adapted"):
        get_peft_model(nn.Sequential(nn.Linear(2, 2)), mona_peft.MonaConfig())
