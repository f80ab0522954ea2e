"""Sequences that are not row by row, against the libraries' own orders; and what cannot be laid out is refused."""

import pytest
import torch
import transformers as tr
from peft import get_peft_model
from timm.models.hiera import Reroll, Unroll

from mona_peft import MonaConfig, inspect_backbone
from mona_peft.blocks.layout import TokenLayout, UnrolledLayout
from mona_peft.blocks.rows import apply_layout
from mona_peft.blocks.sequences import packed_layout, roll, unroll
from tests.families.transformers_models import GRIDS, HIERA, packed_inputs, packed_places, qwen2_5_vl, qwen2_vl
from tests.support.models import randomise

pytestmark = pytest.mark.filterwarnings("ignore")


def test_hieras_order_is_that_of_timm():
    tokens = torch.randn(2, 16 * 24, 3)
    strides = [(2, 2), (4, 2)]
    unrolled = Unroll((64, 96), (4, 4), strides)(tokens)
    layout = UnrolledLayout(16, 24, tuple(strides))
    rolled, grid = roll(unrolled, layout)
    assert torch.equal(rolled, tokens) and grid == TokenLayout(16, 24)
    assert torch.equal(unroll(tokens, layout), unrolled) and not torch.equal(unrolled, tokens)
    pooled = unrolled.view(2, 4, -1, 3).amax(1)
    rolled, grid = roll(pooled, layout)
    expected = Reroll((64, 96), (4, 4), strides, [0, 1, 2], 2)(pooled, 1)
    assert torch.equal(rolled.view(2, 8, 12, 3), expected) and grid == TokenLayout(8, 12)
    image = tokens.view(2, 16, 24, 3).permute(0, 3, 1, 2)
    assert torch.equal(expected.permute(0, 3, 1, 2), torch.nn.functional.max_pool2d(image, 2))


@pytest.mark.parametrize("window", [0, 2])
def test_packed_images_are_taken_apart_and_put_back(window):
    places = packed_places(window)(packed_inputs(0, 0))
    tokens = torch.randn(sum(t * h * w for t, h, w in GRIDS), 3)
    seen = []

    def delta(images, layout):
        seen.extend((layout, image) for image in images)
        return images * 2 + 1

    layout = packed_layout(GRIDS, merge=2, window=window, device=tokens.device)
    assert torch.equal(apply_layout(delta, tokens, layout), tokens * 2 + 1)
    assert len(seen) == len(places) == 5
    for (height, width), place in places:
        assert any(one == TokenLayout(height, width) and torch.equal(image, tokens[place]) for one, image in seen)
    assert apply_layout(lambda images, layout: None, tokens, layout) is None


def test_the_order_of_packed_patches_is_that_of_transformers():
    utils = pytest.importorskip("transformers.vision_utils")
    grids = torch.tensor(GRIDS)
    position_ids = utils.get_vision_position_ids(grids, 2)
    index, _ = utils.get_vision_window_index(grids, 2, window_size=32, patch_size=8)
    windowed = position_ids.view(-1, 4, 2)[index].view(-1, 2)
    for ids, window in ((position_ids, 0), (windowed, 2)):
        for group in packed_layout(GRIDS, merge=2, window=window, device=ids.device).groups:
            rows = torch.arange(group.layout.height).repeat_interleave(group.layout.width)
            columns = torch.arange(group.layout.width).repeat(group.layout.height)
            for places in group.places:
                assert torch.equal(ids[places], torch.stack([rows, columns], 1))


@pytest.mark.parametrize("build", [qwen2_vl, qwen2_5_vl])
def test_an_image_gives_the_same_alone_and_packed(build):
    torch.manual_seed(0)
    model = get_peft_model(build().eval(), MonaConfig(bottleneck_dim=4)).eval().double()
    randomise(model, std=0.3)
    inputs = packed_inputs(0, 0)
    values, grids = inputs["hidden_states"].double(), inputs["grid_thw"]
    with torch.inference_mode():
        packed = model(values, grid_thw=grids).pooler_output
        counts = grids.prod(1).tolist()
        alone = [model(v, grid_thw=g[None]).pooler_output for v, g in zip(values.split(counts), grids, strict=True)]
        torch.testing.assert_close(torch.cat(alone), packed, rtol=0, atol=1e-10)
        with model.disable_adapter():
            assert not torch.allclose(model(values, grid_thw=grids).pooler_output, packed)
    model(values, grid_thw=grids).pooler_output.sum().backward()  # nothing of inference mode is kept


def test_names_of_adapters_are_refused_for_packed_images():
    model = get_peft_model(qwen2_vl().eval(), MonaConfig(bottleneck_dim=4)).eval()
    inputs = packed_inputs(0, 0)
    with pytest.raises(ValueError, match="packed into one sequence, which has no rows to name"):
        model(**inputs, adapter_names=["default"] * len(inputs["hidden_states"]))


def test_masked_tokens_of_hiera_are_refused():
    settings = HIERA | {"mask_ratio": 0.5, "image_size": [32, 32]}
    model = get_peft_model(tr.HieraModel(tr.HieraConfig(**settings), is_mae=True), MonaConfig(bottleneck_dim=4))
    with pytest.raises(ValueError, match="32 tokens, but a grid of 8 x 8, pooled 0 times, makes 64. Tokens"):
        model(torch.randn(1, 3, 32, 32))


def test_the_tower_of_a_language_model_is_adapted_by_itself():
    text = dict(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        vocab_size=50,
        rope_parameters={"rope_type": "default", "mrope_section": [1, 1, 2]},
    )
    vision = dict(depth=2, embed_dim=16, hidden_size=16, num_heads=2, patch_size=8)
    config = tr.Qwen2VLConfig(text_config=text, vision_config=vision, image_token_id=7, vision_start_token_id=8)
    torch.manual_seed(0)
    model = get_peft_model(tr.Qwen2VLForConditionalGeneration(config).eval(), MonaConfig(bottleneck_dim=4)).eval()
    text = str(inspect_backbone(model.get_base_model()))
    assert "2 Qwen2VLVisionBlock (model.visual.blocks.0 to model.visual.blocks.1): known" in text
    ids = torch.tensor([[8, *[7] * 6, 8, *[7] * 2, 1]])
    grids = torch.tensor([[1, 4, 6], [1, 2, 4]])
    inputs = dict(
        input_ids=ids,
        pixel_values=torch.randn(32, 3 * 2 * 64),
        image_grid_thw=grids,
        mm_token_type_ids=(ids == 7).int(),
    )
    with torch.no_grad(), model.disable_adapter():
        before = model(**inputs).logits
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, before)
    randomise(model, std=0.3)
    model.train()
    model(**inputs).logits.sum().backward()
    adapted = {name.rpartition(".mona.")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert len(adapted) == 2 and all(".visual.blocks." in name for name in adapted)
