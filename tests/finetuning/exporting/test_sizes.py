"""Graphs of any height and width: right at sizes that nothing was checked at, and never one size in disguise."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from peft import get_peft_model
from torchvision.models import VisionTransformer
from transformers import (
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

import mona_peft
from mona_peft import MonaConfig
from mona_peft.finetuning.exporting.frames import Frame, find_frame
from mona_peft.finetuning.exporting.runtimes import read_facts
from mona_peft.finetuning.inference.classification import LoadedClassifier
from tests.families.matrix import FAMILIES
from tests.families.table import family_id
from tests.families.transformers_models import PLAIN
from tests.finetuning.exporting.sweep import classifier, traced_once
from tests.support.models import images, predict, randomise, swin_config


def loaded(model):
    model = get_peft_model(model, MonaConfig(bottleneck_dim=4)).eval()
    randomise(model)
    return LoadedClassifier(model, ViTImageProcessor(size={"height": 32, "width": 32}))


@pytest.fixture
def vit():
    torch.manual_seed(0)
    return loaded(ViTForImageClassification(ViTConfig(**PLAIN, initializer_range=0.2)))


@pytest.mark.slow
def test_a_vit_takes_other_heights_and_widths(vit, tmp_path):
    path = tmp_path / "vit.onnx"
    check = mona_peft.export(vit, path, dynamic_size=True)
    assert check.sizes == ((32, 32), (48, 40)) and check.relative < 1e-4
    assert read_facts(path)["sizes"] == {"multiple": 8, "least": 16}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = []
    for size in ((16, 16), (32, 32), (24, 56)):
        x = images(2, *size)
        (logits,) = session.run(["logits"], {"pixel_values": np.asarray(x)})
        expected = predict(vit.model, x, interpolate_pos_encoding=True)
        torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)
        outputs.append(logits)
    assert abs(outputs[0] - outputs[2]).max() > 1e-3


@pytest.fixture
def swin():
    torch.manual_seed(0)
    config = swin_config(embed_dim=8, depths=[2, 1], num_heads=[1, 2], num_labels=2, initializer_range=0.2)
    return loaded(SwinForImageClassification(config))


@pytest.mark.slow
def test_a_swin_takes_sizes_of_whole_windows_with_onnx_and_is_refused_for_torch_with_the_reason(swin, tmp_path):
    path = tmp_path / "swin.onnx"
    message = "SwinForImageClassification cannot be exported with dynamic height and width: its code tied the graph to"
    with traced_once():
        check = mona_peft.export(swin, path, dynamic_size=True)
        with pytest.raises(ValueError, match=message):
            mona_peft.export(swin, tmp_path / "swin.pt2", format="torch", dynamic_size=True)
    assert list(tmp_path.iterdir()) == [path]
    assert check.sizes == ((32, 32), (64, 48)) and check.relative < 1e-4
    assert read_facts(path)["sizes"] == {"multiple": 16, "least": 32}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count, size in ((1, (32, 32)), (2, (48, 80))):
        x = images(count, *size)
        (logits,) = session.run(["logits"], {"pixel_values": np.asarray(x)})
        expected = predict(swin.model, x, interpolate_pos_encoding=True)
        torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)
        assert expected.std() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["transformers-clip", "transformers-dinov2_with_registers"])
def test_positions_are_interpolated_where_the_models_code_would_make_sizes_numbers(name, tmp_path):
    family = next(family for family in FAMILIES if family_id(family) == name)
    model = loaded(classifier(family))
    check = mona_peft.export(model, tmp_path / "model.pt2", format="torch", dynamic_size=True)
    assert len(check.sizes) == 2 and check.relative < 1e-4


@pytest.mark.slow
def test_what_has_one_size_is_refused_with_the_reason(tmp_path):
    torch.manual_seed(0)
    vit = VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=3)
    message = "VisionTransformer cannot be .* it does not take pictures of 96 x 128 pixels .Wrong image"
    with pytest.raises(ValueError, match=message):
        mona_peft.export(loaded(vit), tmp_path / "vit.onnx", dynamic_size=True)
    assert not list(tmp_path.iterdir())


def test_sizes_are_traced_away_from_each_other_and_from_the_models_own(vit):
    frame = find_frame(vit, dynamic=True, image_size=None)
    assert frame == Frame(32, 32, 8) and frame.traced == (40, 48) and frame.checked == [(32, 32), (48, 40)]
    fixed = find_frame(vit, dynamic=False, image_size=None)
    assert fixed.traced == (32, 32) and fixed.checked == [(32, 32)] and fixed.facts() == {"height": 32, "width": 32}
