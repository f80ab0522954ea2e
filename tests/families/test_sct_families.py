"""Maps of salient channels, and their selection, over the matrix of backbones."""

import pytest
import torch
from peft import get_peft_model

from mona_peft import SCTConfig, select_salient_channels
from tests.families.family import Family, adapt_rows, after_attention, plain_copy, tapped_blocks
from tests.families.matrix import FAMILIES
from tests.families.recording import recorded_calls
from tests.families.test_families import check_gradients, check_life_cycle, every_family_of, settle
from tests.support.models import randomise

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.slow,
]

#: Families with branches, of which each row of a batch is an image with a label.
SELECTED = [family for family in FAMILIES if family.branches and not family.packed]
LABELS = torch.tensor([4, 1])


def adapted(family: Family, std: float = 0.3):
    config = SCTConfig(num_channels=5, positions=("attention", "mlp"), sct_scale=0.5)
    model = get_peft_model(family.model().requires_grad_(False), config).double().eval()
    with model.disable_adapter():  # its channels are not selected yet
        settle(family, model)
    randomise(model, ".sct_", std=std)
    return model


def select(family, model):
    """Select by the images of a call of the family."""
    inputs = []
    handle = model.register_forward_pre_hook(lambda m, args, kwargs: inputs.append((args, kwargs)), with_kwargs=True)
    with torch.no_grad(), model.disable_adapter():
        family.call(model)
    handle.remove()
    ((args, kwargs),) = inputs
    select_salient_channels(model, [(args[0] if args else kwargs, LABELS)])


def patch_norms(family, number, size, x):
    """The norms of each image's channels over its patches, averaged: each image is a class."""

    def patches(_, tokens, grid, prefix, suffix):
        keep = torch.ones(len(tokens), 1, dtype=tokens.dtype)
        keep[:prefix] = keep[len(tokens) - suffix :] = 0
        return keep * tokens

    kept = adapt_rows(family, None, x, number, size, patches)
    return kept.flatten(1, -2).norm(dim=1).mean(0)


def mapped(channel_map, x):
    size = len(channel_map.channels)
    selection = torch.zeros(x.shape[-1], size, dtype=x.dtype)
    selection[channel_map.channels, torch.arange(size)] = 1.0
    return x + 0.5 * channel_map.linear(x @ selection) @ selection.T


@every_family_of(SELECTED)
@torch.no_grad()
def test_blocks_and_selected_channels_agree_with_their_parts(family):
    model = adapted(family)
    select(family, model)
    maps = [block.sct.maps("default") for block in tapped_blocks(model)]
    with model.disable_adapter():
        for number, size, block, args, kwargs, output in recorded_calls(family, model, family.sizes[:1]):
            x1 = after_attention(family, plain_copy(block), args, kwargs)
            output = output.permute(0, 2, 3, 1) if family.arrangement == "channels_first" else output
            for position, x in (("attention", x1), ("mlp", output)):
                x = x.view(output.shape)
                norms = patch_norms(family, number, size, x)
                assert maps[number][position].channels.tolist() == sorted(norms.topk(5).indices.tolist())
    for number, size, block, args, kwargs, output in recorded_calls(family, model, family.sizes):
        plain = plain_copy(block)
        x1 = mapped(maps[number]["attention"], after_attention(family, plain, args, kwargs))
        y = mapped(maps[number]["mlp"], x1 + family.mlp(plain, x1, family.grid(number, size)))
        y = y.permute(0, 3, 1, 2) if family.arrangement == "channels_first" else y
        torch.testing.assert_close(output, y.view(output.shape), rtol=0, atol=1e-10)


@every_family_of(SELECTED)
def test_starts_as_the_base_model_saves_disables_and_unloads(family, tmp_path):
    def adapt(base):
        model = get_peft_model(base, SCTConfig(num_channels=5)).double().eval()
        select(family, model)
        return model

    check_life_cycle(family, adapt, ".sct_", 1.0, tmp_path)


@every_family_of(SELECTED)
@pytest.mark.parametrize("reentrant", [False, True])
def test_every_map_gets_its_gradient_under_checkpointing_too(family, reentrant):
    model = adapted(family, std=0.1)
    select(family, model)
    check_gradients(family, model, ".sct_", reentrant)


@every_family_of([family for family in FAMILIES if family.packed])
def test_packed_images_are_refused(family):
    with pytest.raises(ValueError, match="these are packed into one sequence"):
        select(family, adapted(family, std=0.0))
