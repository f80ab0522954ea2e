"""What the blocks' adapters change: against what hooks on the adapters see, and on every method."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model
from transformers import SwinForImageClassification, ViTForImageClassification

from mona_peft import BottleneckConfig
from mona_peft.finetuning.app.contributions import watching, without_adapters
from mona_peft.finetuning.methods import apply_method
from tests.finetuning.serving.adapters import METHODS
from tests.support.models import images, randomise, swin_config, vit_config


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_norms_are_those_of_what_the_adapters_add():
    """At the end of the MLP branch all that an adapter adds goes into the stream; the class token is left out."""
    model = get_peft_model(
        ViTForImageClassification(vit_config(initializer_range=0.3)).eval(),
        BottleneckConfig(positions=["mlp"], bottleneck_dim=4, modules_to_save=["classifier"]),
    ).eval()
    randomise(model, "bottleneck", std=0.5)
    added = []
    for layer in model.modules():
        if type(layer).__name__ == "BottleneckLayer":
            layer.base_layer.register_forward_hook(lambda m, a, out: added.append(out))
            layer.register_forward_hook(lambda m, a, out: added.append(out))
    with torch.inference_mode():
        model(pixel_values=images(1))
        expected = [
            (after - before)[0, 1:].norm(dim=-1).reshape(8, 8)
            for before, after in zip(added[::2], added[1::2], strict=True)
        ]
        with watching(model.get_base_model()) as found:
            model(pixel_values=images(1))
    assert len(found) == len(expected) == 3
    for each, norms in zip(found, expected, strict=True):
        torch.testing.assert_close(each.norms, norms, rtol=1e-3, atol=1e-4)
        assert norms.std() > 0.01 and 0 < each.share < 10


@pytest.mark.parametrize("method", [method for method in METHODS if method != "sct"])
def test_every_method_has_a_map_for_each_block_and_is_left_as_it_was(method):
    model = apply_method(SwinForImageClassification(swin_config()), method, **METHODS[method]).eval()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            randomise(model, name, std=0.3, seed=len(name))
    base = model.get_base_model()
    with torch.inference_mode():
        before, count = model(pixel_values=images(1)).logits, hooks(model)
        with watching(base) as found:
            watched = model(pixel_values=images(1)).logits
        assert torch.equal(before, watched) and torch.equal(before, model(pixel_values=images(1)).logits)
        with without_adapters(model), watching(base) as none:
            model(pixel_values=images(1))
    assert hooks(model) == count
    assert [tuple(each.norms.shape) for each in found] == [(16, 16)] * 2 + [(8, 8)] * 2
    assert all(each.norms.min() >= 0 and each.norms.max() > 1e-3 for each in found)
    assert all(each.norms.max() == 0 for each in none)


def test_switched_off_is_the_base_model_with_the_trained_head():
    base = SwinForImageClassification(swin_config()).eval()
    with torch.inference_mode():
        features = base.swin(images(1)).pooler_output
    model = apply_method(base, "mona", bottleneck_dim=4).eval()
    for marker in ("mona_", "modules_to_save"):
        randomise(model, marker, std=0.3)
    head = model.get_base_model().classifier.modules_to_save["default"]
    with torch.inference_mode():
        with without_adapters(model):
            logits = model(pixel_values=images(1)).logits
        assert torch.equal(logits, head(features))
        assert not torch.allclose(logits, model(pixel_values=images(1)).logits, atol=1e-2)
