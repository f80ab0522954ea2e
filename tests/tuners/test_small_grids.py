"""Grids smaller than the windows: what the base model computes is adapted, what it cannot compute is its own error."""

import pytest
import torch
import transformers as tr
from peft import get_peft_model

from tests.families.test_every_tuner import CONFIGS, REFUSED, ready
from tests.support.models import images, swin_config

WINDOWED = {
    "swin backbone": lambda: tr.SwinBackbone(swin_config()),
    "swinv2": lambda: tr.Swinv2Model(tr.Swinv2Config(image_size=32, **SIZES)),
    "maskformer-swin": lambda: tr.MaskFormerSwinBackbone(tr.MaskFormerSwinConfig(image_size=32, **SIZES)),
}
SIZES = {"embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "window_size": 4}


@pytest.mark.parametrize("method", CONFIGS)
@pytest.mark.parametrize("name", WINDOWED)
def test_the_last_grid_may_be_smaller_than_the_windows(name, method):
    if f"transformers-{name}" in REFUSED.get(method, {}):
        with pytest.raises(ValueError, match=REFUSED[method][f"transformers-{name}"]):
            get_peft_model(WINDOWED[name](), CONFIGS[method])
        return
    model = get_peft_model(WINDOWED[name](), CONFIGS[method]).eval()
    pixels = images(2)[..., :8, :12]  # the last grid is 1 x 2, or 2 x 3
    with torch.no_grad(), model.disable_adapter():
        plain = model(pixel_values=pixels)[0]
    ready(model, method)
    adapted = model(pixel_values=pixels)[0]
    plain, adapted = (list(out) if isinstance(out, tuple) else [out] for out in (plain, adapted))
    for before, after in zip(plain, adapted, strict=True):
        assert after.shape == before.shape and after.isfinite().all()
    assert not torch.equal(adapted[-1], plain[-1])
    sum(part.square().sum() for part in adapted).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("method", ["mona", "lorand"])
def test_what_the_base_model_cannot_compute_is_its_own_error(method):
    model = tr.SwinModel(swin_config()).eval()
    messages = []
    for adapted in (model, get_peft_model(model, CONFIGS[method])):
        with pytest.raises(RuntimeError) as caught:
            adapted(pixel_values=images(1)[..., :8, :8])  # the last grid is 2 x 2, the windows 4 x 4
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
