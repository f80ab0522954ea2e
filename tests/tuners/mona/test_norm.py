"""The `norm` of `MonaConfig`, for the paper's ablation of the scaled norm."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import Siglip2VisionConfig, Siglip2VisionModel

from mona_peft import Mona, MonaConfig
from mona_peft.blocks.layout import TokenLayout
from tests.support.models import TINY_MODELS, images, predict, randomise

pytestmark = pytest.mark.filterwarnings("ignore")
LAYOUT = TokenLayout(4, 4)


def filled(norm, variant="final"):
    mona = Mona(8, bottleneck_dim=4, norm=norm, variant=variant, dropout=0.0).double()
    with torch.no_grad():
        for parameter in mona.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return mona


@pytest.mark.parametrize("variant", ["final", "v2", "v3"])
def test_without_a_norm_it_is_the_norm_that_passes_its_input(variant):
    plain, normed = filled("none", variant), filled("layer", variant)
    missing = normed.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing and all("norm" in key for key in missing)
    with torch.no_grad():
        for name, parameter in normed.named_parameters():
            if name.endswith("norm_scale"):
                parameter.zero_()
            if name.endswith("input_scale"):
                parameter.fill_(1.0)
    x = torch.randn(2, 16, 8, dtype=torch.float64)
    torch.testing.assert_close(plain(x, LAYOUT), normed(x, LAYOUT))


def test_batch_norm_normalises_over_tokens_and_images():
    mona = filled("batch")
    x = 3 + 2 * torch.randn(4, 16, 8, dtype=torch.float64)
    norm = mona.norm
    y = (x - x.mean((0, 1))) / (x.var((0, 1), unbiased=False) + norm.norm.eps).sqrt()
    expected = norm.norm_scale * (y * norm.norm.weight + norm.norm.bias) + norm.input_scale * x
    torch.testing.assert_close(norm(x), expected)
    mona.eval()
    alone = torch.cat([mona(image[None], LAYOUT) for image in x])
    torch.testing.assert_close(mona(x, LAYOUT), alone)


@pytest.mark.parametrize("autocast_adapter_dtype", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_batch_norm_on_a_base_in_half_precision(dtype, autocast_adapter_dtype):
    """It trains and predicts, and its statistics move as those of the same model in float32."""
    config = MonaConfig(norm="batch", bottleneck_dim=4, mona_dropout=0.0)
    tiny = TINY_MODELS["swin-classifier"]
    half = get_peft_model(tiny.build().to(dtype), config, autocast_adapter_dtype=autocast_adapter_dtype)
    single = get_peft_model(tiny.build(), config)
    randomise(half)
    randomise(single)
    for model, type_ in ((half, dtype), (single, torch.float32)):
        logits = model.train()(pixel_values=images().to(type_)).logits
        logits.float().square().sum().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    error = predict(half.eval(), images().to(dtype)).float() - predict(single.eval(), images())
    assert error.norm() < 0.1 * predict(single, images()).norm()
    buffers = dict(single.named_buffers())
    for name, buffer in half.named_buffers():
        if name.endswith("running_mean"):
            assert (buffer.float() - buffers[name]).norm() < 0.1 * buffers[name].norm() + 1e-3


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("name", ["swin-classifier", "vit-model"])
def test_it_trains_saves_and_loads(norm, name, tmp_path):
    tiny = TINY_MODELS[name]
    before = predict(tiny.build(), images())
    model = get_peft_model(tiny.build(), MonaConfig(norm=norm, modules_to_save=tiny.modules_to_save))
    torch.testing.assert_close(predict(model.eval(), images()), before)
    randomise(model)
    predict(model.train(), images())  # moves the running statistics
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny.build(), tmp_path).eval()
    assert torch.equal(predict(loaded, images()), predict(model.eval(), images()))
    saved, again = model.state_dict(), loaded.state_dict()
    assert saved.keys() == again.keys() and all(torch.equal(saved[key], again[key]) for key in saved)


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpointing_moves_the_statistics_once(dtype, use_reentrant):
    buffers = []
    for checkpointing in (False, True):
        base = TINY_MODELS["vit-classifier"].build().to(dtype)
        model = get_peft_model(base, MonaConfig(norm="batch", mona_dropout=0.0)).train()
        if checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        for seed in range(3):
            model(pixel_values=images(seed=seed).to(dtype)).logits.square().sum().backward()
        buffers.append({name: buffer for name, buffer in model.named_buffers() if ".mona_" in name})
    assert buffers[0] and all(torch.equal(buffers[1][name], buffer) for name, buffer in buffers[0].items())
    assert {int(buffer) for name, buffer in buffers[1].items() if "tracked" in name} == {3}


def test_batch_norm_does_not_train_on_grids_of_several_shapes():
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    base = Siglip2VisionModel(Siglip2VisionConfig(**sizes, patch_size=4, num_patches=16))
    model = get_peft_model(base, MonaConfig(norm="batch", bottleneck_dim=4))
    call = {"pixel_values": torch.randn(2, 16, 48), "pixel_attention_mask": torch.ones(2, 16)}
    same, several = torch.tensor([[4, 4], [4, 4]]), torch.tensor([[4, 4], [2, 8]])
    model.train()(**call, spatial_shapes=same)
    with pytest.raises(ValueError, match="norm='batch'.*several shapes.*norm='layer'"):
        model(**call, spatial_shapes=several)
    model.eval()(**call, spatial_shapes=several)


def test_unknown_norm():
    with pytest.raises(ValueError, match="norm='group' is unknown.*layer"):
        MonaConfig(norm="group")
