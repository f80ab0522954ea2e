"""What is said of trained adapters, against what the model itself computes."""

import pytest
import torch
from peft import get_peft_model

from mona_peft import MonaConfig
from mona_peft.finetuning.study.inspection import contributions, mean_filters, named_monas, scales, short_name
from tests.support.models import TINY_MODELS, images, predict, randomise

pytestmark = pytest.mark.filterwarnings("ignore")


def adapted(**options):
    model = get_peft_model(TINY_MODELS["swin-model"].build(), MonaConfig(bottleneck_dim=4, **options)).train()
    randomise(model)
    return model


def test_contributions_are_in_the_order_of_the_blocks_and_leave_the_model_alone():
    model = adapted()
    expected = predict(model.eval(), images())
    attributes = [sorted(vars(mona)) for mona in named_monas(model).values()]
    found = contributions(model.train(), images())
    assert [c.name for c in found] == [
        f"{stage}.{block} {position}" for stage in (0, 1) for block in (0, 1) for position in ("attention", "mlp")
    ]
    assert all(c.share > 0 for c in found)
    assert model.training and [sorted(vars(mona)) for mona in named_monas(model).values()] == attributes
    assert torch.equal(predict(model.eval(), images()), expected)


def test_contribution_is_the_size_of_what_is_added():
    model = adapted(layers_to_transform=[-1], positions=["mlp"])
    layernorm = model.base_model.model.layernorm
    streams = []
    handle = layernorm.register_forward_pre_hook(lambda module, args: streams.append(args[0]))
    predict(model.eval(), images())
    with model.disable_adapter():
        predict(model, images())
    handle.remove()
    (contribution,) = contributions(model, images())
    with_adapter, without = streams
    assert contribution.added == pytest.approx((with_adapter - without).square().mean().sqrt().item(), rel=1e-4)
    assert contribution.stream == pytest.approx(without.square().mean().sqrt().item(), rel=1e-5)


def test_an_untrained_adapter_adds_nothing():
    model = get_peft_model(TINY_MODELS["vit-model"].build(), MonaConfig())
    assert [c.added for c in contributions(model, images())] == [0.0] * 6


def test_filters_and_scales():
    mona = next(iter(named_monas(adapted()).values()))
    assert [tuple(taps.shape) for taps in mean_filters(mona)] == [(3, 3), (5, 5), (7, 7)]
    weight = mona.depthwise[1].weight.detach()
    torch.testing.assert_close(mean_filters(mona)[1][0, 2], weight[:, 0, 0, 2].abs().mean())
    assert [name for name in scales(mona)] == ["norm.norm_scale", "norm.input_scale"]
    v1 = next(iter(named_monas(adapted(variant="v1")).values()))
    assert scales(v1) == {}
    v2 = next(iter(named_monas(adapted(variant="v2")).values()))
    assert len(scales(v2)) == 4


def test_short_names():
    assert short_name("base_model.model.swin.encoder.layers.2.blocks.0.mona.mona_mlp.default") == "2.0 mlp"
