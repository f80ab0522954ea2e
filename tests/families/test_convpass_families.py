"""Bypasses that read the norms before the branches, over the matrix of backbones."""

import pytest
import torch
import torch.nn.functional as F
from peft import get_peft_model

from mona_peft import ConvpassConfig
from tests.families.family import Family, adapt_rows, after_attention, plain_copy
from tests.families.matrix import FAMILIES
from tests.families.recording import recorded_calls, stream
from tests.families.test_families import attributes_of, check_gradients, check_life_cycle, every_family_of, settle
from tests.support.models import randomise

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.slow,
]

# Their norms stand behind the branches; in SAM 2 and Hiera, attention widens the stream.
POST_NORM = {
    ("transformers", "sam2"),
    ("transformers", "hiera"),
    ("timm", "hiera"),
    ("transformers", "swinv2"),
    ("timm", "vit, norms after the branches"),
    ("timm", "eva, norms after the branches"),
    ("timm", "swinv2"),
    ("torchvision", "swinv2"),
}
WITH_BRANCHES = [family for family in FAMILIES if family.branches]
READABLE = [family for family in WITH_BRANCHES if (family.library, family.name) not in POST_NORM]
OTHERS = [family for family in WITH_BRANCHES if family not in READABLE]


def adapted(family: Family, std: float = 0.3):
    model = get_peft_model(family.model(), ConvpassConfig(bottleneck_dim=3, convpass_dropout=0.0)).eval()
    randomise(model, ".convpass_", std=std)
    return model


def quick_gelu(x):
    return x / (1 + torch.exp(-1.702 * x))


def reference_bypass(bypass, tokens, grid, prefix, suffix):
    """The paper's formula on the tokens `(N, m)` of one image; extra tokens are images of one pixel."""
    z = quick_gelu(bypass.down(tokens))
    sizes = [1] * prefix + [grid[0] * grid[1]] + [1] * suffix
    parts = []
    for size, part in zip(sizes, z.split(sizes), strict=True):
        image = part.T.reshape(1, -1, *(grid if size > 1 else (1, 1)))
        parts.append(F.conv2d(image, bypass.conv.weight, bypass.conv.bias, padding=1).flatten(2)[0].T)
    return bypass.up(quick_gelu(torch.cat(parts)))


@every_family_of(READABLE)
@torch.no_grad()
def test_blocks_agree_with_their_parts(family):
    model = adapted(family).double()
    settle(family, model)
    for number, size, block, args, kwargs, output in recorded_calls(family, model, family.sizes):
        plain, spec = plain_copy(block), block._tap.spec

        def beside(position, norm, x, block=block, number=number, size=size):
            adapter = getattr(block.convpass, f"convpass_{position}")["default"]
            return adapt_rows(family, adapter, norm(x), number, size, reference_bypass)

        x1 = after_attention(family, plain, args, kwargs)
        x1 = x1 + beside("attention", plain.get_submodule(spec.attention_norm), stream(family, args)).view(x1.shape)
        y = x1 + family.mlp(plain, x1, family.grid(number, size))
        y = y + beside("mlp", plain.get_submodule(spec.entry), x1)
        y = y.permute(0, 3, 1, 2) if family.arrangement == "channels_first" else y
        torch.testing.assert_close(output, y.view(output.shape), rtol=0, atol=1e-10)


class Fixed(torch.nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x):
        return self.output


@every_family_of(READABLE)
@torch.no_grad()
def test_the_norm_gives_all_that_attention_reads(family):
    """With its norm's output fixed, what a block's attention adds does not depend on the block's input."""
    model = adapted(family).double()
    settle(family, model)
    for _, _, block, args, kwargs, _ in recorded_calls(family, model, family.sizes):
        plain, path = plain_copy(block), block._tap.spec.attention_norm
        normed = plain.get_submodule(path)(stream(family, args))
        added = after_attention(family, plain, args, kwargs) - stream(family, args)
        plain.set_submodule(path, Fixed(normed))
        others = (args[0] + torch.randn_like(args[0]), *args[1:])
        again = after_attention(family, plain, others, kwargs) - stream(family, others)
        torch.testing.assert_close(again, added, rtol=0, atol=1e-10)


@every_family_of(READABLE)
def test_starts_as_the_base_model_saves_disables_and_unloads(family, tmp_path):
    check_life_cycle(
        family, lambda base: get_peft_model(base, ConvpassConfig(bottleneck_dim=3)), ".convpass_", 0.3, tmp_path
    )


@every_family_of(READABLE)
@pytest.mark.parametrize("reentrant", [False, True])
def test_every_bypass_gets_its_gradient_under_checkpointing_too(family, reentrant):
    model = adapted(family, std=0.1).double()
    settle(family, model)
    check_gradients(family, model, ".convpass_", reentrant)


@every_family_of(OTHERS)
def test_blocks_with_norms_behind_their_branches_are_refused(family):
    model = family.model()
    before, trained = attributes_of(model), {n: p.requires_grad for n, p in model.named_parameters()}
    with pytest.raises(ValueError, match="has no norms before its branches that the adapter could read"):
        get_peft_model(model, ConvpassConfig())
    assert attributes_of(model) == before
    assert {n: p.requires_grad for n, p in model.named_parameters()} == trained
