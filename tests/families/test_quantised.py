"""Mona on base models whose weights are quantised to 8 and to 4 bits."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import BitsAndBytesConfig

from mona_peft import MonaConfig
from tests.support.models import TINY_MODELS, images, predict, randomise, swin_config, vit_config

pytestmark = pytest.mark.filterwarnings("ignore")

CONFIGS = {
    "vit-classifier": lambda: vit_config(hidden_size=64, intermediate_size=128),
    "swin-classifier": lambda: swin_config(embed_dim=64, num_heads=[2, 2]),
}


def bitsandbytes_model(name, bits, folder):
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    cls = TINY_MODELS[name].cls
    cls(CONFIGS[name]()).save_pretrained(folder)
    quantisation = BitsAndBytesConfig(
        load_in_8bit=bits == 8,
        load_in_4bit=bits == 4,
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=["classifier"],
    )
    return cls.from_pretrained(folder, quantization_config=quantisation, device_map="cpu").eval()


def torchao_model(name, bits, folder):
    quantization = pytest.importorskip("torchao.quantization")
    model = TINY_MODELS[name].build()
    group = quantization.granularity.PerGroup(16)
    config = (
        quantization.Int8WeightOnlyConfig()
        if bits == 8
        else quantization.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=group)
    )
    quantization.quantize_(
        model, config, filter_fn=lambda m, path: isinstance(m, torch.nn.Linear) and "classifier" not in path
    )
    return model


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("build", [bitsandbytes_model, torchao_model])
def test_mona_on_a_quantised_model(build, bits, name, tmp_path):
    base = build(name, bits, tmp_path / "base")
    quantised = [p for p in base.parameters() if type(p.data) is not torch.Tensor or not p.is_floating_point()]
    assert quantised or any("Linear" in type(m).__name__ != "Linear" for m in base.modules())
    x = images()
    model = get_peft_model(base, MonaConfig(bottleneck_dim=4, mona_dropout=0.0, modules_to_save=["classifier"]))
    adapters = {n: p for n, p in model.named_parameters() if ".mona_" in n}
    assert {p.dtype for p in adapters.values()} == {torch.float32}
    randomise(model, std=0.3)
    # before the first evaluation, for which bitsandbytes packs its weights in a form that has no gradient on a CPU
    model.train()(pixel_values=x, labels=torch.tensor([0, 1])).loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in adapters.values())
    model.eval()
    with model.disable_adapter():
        before = predict(model, x)
    after = predict(model, x)
    assert not torch.allclose(before, after, atol=1e-3)
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(build(name, bits, tmp_path / "base"), tmp_path / "adapter").eval()
    torch.testing.assert_close(predict(loaded, x), after, rtol=0, atol=1e-4)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_model_starts_as_it_was(bits, tmp_path):
    base = torchao_model("swin-classifier", bits, tmp_path)
    x = images()
    before = predict(base, x)
    assert torch.equal(predict(get_peft_model(base, MonaConfig(bottleneck_dim=4)).eval(), x), before)
