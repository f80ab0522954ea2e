"""What each method trains, on Swin and ViT, and what is counted."""

import subprocess
import sys

import pytest
import timm
import torch
from torch import nn

from mona_peft.blocks.head import is_head
from mona_peft.finetuning.methods import METHODS, apply_method, register_method
from mona_peft.summary import summary
from tests.support.models import TINY_MODELS

CLASSIFIERS = ("swin-classifier", "vit-classifier")


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_full_trains_everything(name):
    model = TINY_MODELS[name].build()
    apply_method(model, "full")
    assert trained(model) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_fixed_trains_the_head_alone(name):
    model = apply_method(TINY_MODELS[name].build(), "fixed")
    assert trained(model) == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_lora_trains_query_value_and_head(name):
    model = apply_method(TINY_MODELS[name].build(), "lora", r=4)
    names = trained(model)
    head = {name for name in names if is_head(name, ["classifier"])}
    adapted = {name.split(".")[-4] for name in names - head}
    assert len(head) == 2
    assert adapted in ({"q_proj", "v_proj"}, {"query", "value"})
    assert sum("lora_A" in name for name in names) == 2 * TINY_MODELS[name].blocks


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_mona_trains_adapters_and_head(name):
    model = apply_method(TINY_MODELS[name].build(), "mona", bottleneck_dim=8)
    names = trained(model)
    assert sum(is_head(name, ["classifier"]) for name in names) == 2
    assert all("mona_" in name for name in names if not is_head(name, ["classifier"]))
    assert sum(name.endswith("down.weight") for name in names) == 2 * TINY_MODELS[name].blocks


@pytest.mark.parametrize("method", ["full", "fixed", "lora", "mona"])
def test_counts_add_up(method):
    model = TINY_MODELS["swin-classifier"].build()
    before = sum(parameter.numel() for parameter in model.parameters())
    head = sum(parameter.numel() for parameter in model.classifier.parameters())
    model = apply_method(model, method)
    counts = summary(model)
    assert counts.head.total == counts.head.trainable == head
    assert counts.backbone.trainable + head == sum(p.numel() for p in model.parameters() if p.requires_grad)
    added = counts.backbone.total + head - before
    assert added == (counts.backbone.trainable if method in ("lora", "mona") else 0)


@pytest.mark.parametrize("method", ["full", "fixed", "lora", "mona"])
def test_a_step_changes_exactly_what_trains(method):
    model = apply_method(TINY_MODELS["swin-classifier"].build(), method).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):  # LoRA's A and Mona's Down first move in the second step
        logits = model(pixel_values=torch.randn(4, 3, 32, 32)).logits
        nn.functional.cross_entropy(logits, torch.arange(4)).backward()
        optimizer.step()
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    # A key bias never changes attention, so its gradient may be zero.
    assert changed <= trained(model)
    assert {name for name in trained(model) - changed if "k_proj.bias" not in name and "key.bias" not in name} == set()


def test_timm_models_are_understood():
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, depth=2)
    assert trained(apply_method(model, "fixed")) == {"head.weight", "head.bias"}
    assert {name.split(".")[-4] for name in trained(apply_method(model, "lora")) if "lora" in name} == {"qkv"}


def test_given_head_is_used():
    model = apply_method(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4), nn.Linear(4, 5)), "fixed", head=["1", "2"])
    assert {name.split(".")[0] for name in trained(model)} == {"1", "2"}


def test_errors():
    model = TINY_MODELS["swin-classifier"].build()
    with pytest.raises(ValueError, match=r"Unknown method 'monna'.*fixed.*mona"):
        apply_method(model, "monna")
    with pytest.raises(ValueError, match="head of Sequential"):
        apply_method(nn.Sequential(nn.Linear(1, 1)), "fixed")
    with pytest.raises(ValueError, match="'dropout' has no parameters"):
        apply_method(nn.ModuleDict({"dropout": nn.Dropout(), "fc": nn.Linear(1, 1)}), "fixed", head=["dropout"])
    with pytest.raises(ValueError, match="no linear layers"):
        apply_method(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)), "lora", head=["1"])


@pytest.mark.parametrize("method", sorted(METHODS))
def test_settings_that_a_method_does_not_have_are_refused(method):
    model = TINY_MODELS["swin-classifier"].build()
    with pytest.raises(
        ValueError, match=f"The method '{method}' has no setting botleneck_dim, modules_to_save; it has"
    ):
        apply_method(model, method, botleneck_dim=8, modules_to_save=["classifier"])
    assert not hasattr(model, "peft_config")


def test_the_known_settings_are_those_that_are_taken():
    assert METHODS["full"].options == frozenset() and METHODS["partial-1"].options == {"blocks"}
    assert {"bottleneck_dim", "variant", "target_modules"} <= METHODS["mona"].options
    assert {"r", "lora_alpha", "target_modules"} <= METHODS["lora"].options
    with pytest.raises(ValueError, match="The method 'full' has no setting r; it has none"):
        apply_method(TINY_MODELS["swin-classifier"].build(), "full", r=4)


def test_a_new_method_is_a_row_of_the_table():
    @register_method("biases", "biases")
    def prepare(model, head):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.endswith("bias"))
        return model

    try:
        model = apply_method(TINY_MODELS["swin-classifier"].build(), "biases")
        assert all(name.endswith("bias") for name in trained(model))
        with pytest.raises(ValueError, match="exists already"):
            register_method("biases", "again")(prepare)
    finally:
        del METHODS["biases"]


def test_the_package_alone_needs_no_training_extras():
    code = "import sys, mona_peft; print([name for name in sys.modules if name.startswith('mona_peft.finetuning')])"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.strip() == "[]"
