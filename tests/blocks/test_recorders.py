"""The layout a block sees is that of its own tokens, whatever ran in between."""

import copy
import gc

import pytest
import timm.models as tm
import torch
import transformers as tr
from peft import get_peft_model
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    apply_activation_checkpointing,
    checkpoint_wrapper,
)
from torch.utils.checkpoint import checkpoint

from mona_peft import MonaConfig
from mona_peft.blocks.recorders import recorders_of
from mona_peft.blocks.tapped import TappedBlock
from tests.families.family import Family, loss, tapped_blocks, tensors
from tests.families.matrix import FAMILIES
from tests.families.timm_models import PLAIN as TIMM
from tests.families.transformers_models import PLAIN
from tests.support.models import randomise

pytestmark = pytest.mark.filterwarnings("ignore")

WIDE, HIGH = (16, 64), (64, 16)


def adapted(build):
    torch.manual_seed(0)
    model = get_peft_model(build(), MonaConfig(bottleneck_dim=4, mona_dropout=0.0)).double().eval()
    randomise(model, std=0.3)
    return model


def vit():
    return tr.ViTModel(tr.ViTConfig(**PLAIN))


def timm_vit():
    return tm.VisionTransformer(**TIMM, dynamic_img_size=True)


def picture(size, seed=0):
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(model, size):
    if isinstance(model.base_model.model, tr.ViTModel):
        return model(pixel_values=picture(size), interpolate_pos_encoding=True).last_hidden_state
    return model.base_model.model.forward_features(picture(size))


def encode(model, tokens):
    """Run a ViT's blocks and its last norm by hand."""
    for block in tapped_blocks(model):
        tokens = block(tokens)
    return model.base_model.model.layernorm(tokens)


def family(name: str) -> Family:
    return next(f for f in FAMILIES if f.name == name)


def two_forwards(family, model, batches):
    """The adapters' gradients of several forward passes before the one backward pass."""
    model.zero_grad()
    sum(loss(model(**batch)) for batch in batches).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def batches_of(family):
    """Two batches with equally many tokens whose layouts differ."""
    first = family.inputs(32, 48)
    first = {k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in first.items()}
    second = dict(first)
    if "spatial_shapes" in first:
        second["spatial_shapes"] = first["spatial_shapes"].flip(1)
    elif "noise" in first:
        second["noise"] = first["noise"].flip(1)
    else:
        second["pixel_values"] = first["pixel_values"].mT.contiguous()
    return first, second


@pytest.mark.parametrize("implementation", list(CheckpointImpl))
@pytest.mark.parametrize("name", ["siglip2", "vit_mae", "vit", "dinov2"])
def test_blocks_checkpointed_from_outside(name, implementation):
    row = family(name)
    model = get_peft_model(row.model(), MonaConfig(bottleneck_dim=4, mona_dropout=0.0)).double().eval()
    randomise(model, std=0.1)
    batches = batches_of(row)
    assert not torch.allclose(*(tensors(model(**batch))[0] for batch in batches))
    expected = two_forwards(row, model, batches)
    for batch in batches:  # reentrant checkpointing gives no gradient to a block none of whose inputs needs one
        batch["pixel_values"].requires_grad_()
    apply_activation_checkpointing(
        model,
        checkpoint_wrapper_fn=lambda module: checkpoint_wrapper(module, checkpoint_impl=implementation),
        check_fn=lambda module: isinstance(module, TappedBlock),
    )
    actual = two_forwards(row, model, batches)
    assert len(actual) == len(expected) > 0
    for key, gradient in actual.items():
        torch.testing.assert_close(gradient, expected[key.replace("._checkpoint_wrapped_module", "")])


@pytest.mark.parametrize("build", [vit, timm_vit])
def test_a_sequence_checkpointed_from_outside(build):
    """timm checkpoints blocks from outside: equally many patches of two images are told apart by their tokens."""
    model = adapted(build).train()

    def gradients():
        model.zero_grad()
        wide, high = run(model, WIDE).sum(), run(model, HIGH).square().sum()
        wide.backward()
        high.backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    expected = gradients()
    base = model.base_model.model
    base.gradient_checkpointing_enable() if build is vit else base.set_grad_checkpointing()
    torch.testing.assert_close(gradients(), expected)


def test_checkpointed_tokens_that_were_moved_are_refused():
    """Saved elsewhere, as offloading does, the tokens are others, and two layouts are possible."""
    model = adapted(timm_vit).train()
    model.base_model.model.set_grad_checkpointing()
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda tensor: tensor):
        wide, high = run(model, WIDE).sum(), run(model, HIGH).sum()
    with pytest.raises(ValueError, match=r"\[\(2, 8\), \(8, 2\)\] patches.*Run the backward pass of one size"):
        wide.backward()
    del wide, high
    for size in (WIDE, HIGH):
        with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda tensor: tensor):
            result = run(model, size).sum()
        result.backward()


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("build", [vit, timm_vit])
def test_a_model_checkpointed_as_a_whole(build, reentrant):
    model = adapted(build).train()

    def gradients(call):
        model.zero_grad()
        run(model, WIDE)
        parts = [call(size) for size in (HIGH, WIDE)]
        run(model, WIDE)
        sum(part.square().sum() for part in parts).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    expected = gradients(lambda size: run(model, size))
    needs_grad = torch.zeros(1, requires_grad=True)
    actual = gradients(lambda size: checkpoint(lambda _: run(model, size), needs_grad, use_reentrant=reentrant))
    torch.testing.assert_close(actual, expected)


@torch.no_grad()
def test_two_images_embedded_before_the_encoder_runs():
    model = adapted(vit)
    expected = [run(model, size) for size in (WIDE, HIGH)]
    base = model.base_model.model
    tokens = [base.embeddings(picture(size), interpolate_pos_encoding=True) for size in (WIDE, HIGH)]
    for number in (0, 1, 0):
        torch.testing.assert_close(encode(model, tokens[number]), expected[number])


@torch.no_grad()
def test_two_images_that_cannot_be_told_apart_are_refused():
    model = adapted(timm_vit)
    base = model.base_model.model
    expected = run(model, WIDE)
    tokens = [base._pos_embed(base.patch_embed(picture(size))) for size in (WIDE, HIGH)]
    for _ in range(2):
        with pytest.raises(ValueError, match=r"images of \[\(2, 8\), \(8, 2\)\] patches were embedded before"):
            base.blocks(tokens[0])
    torch.testing.assert_close(run(model, WIDE), expected)


@torch.no_grad()
def test_kept_tokens_do_not_get_the_grid_of_a_later_image():
    model = adapted(vit)
    expected = run(model, HIGH)
    tokens = model.base_model.model.embeddings(picture(HIGH), interpolate_pos_encoding=True).clone()
    torch.testing.assert_close(encode(model, tokens.clone()), expected)
    for _ in range(3):
        torch.testing.assert_close(run(model, HIGH), expected)
        torch.testing.assert_close(encode(model, tokens.clone()), expected, msg="there is one grid alone")
    for _ in range(2):
        run(model, WIDE)
    with pytest.raises(ValueError, match=r"images of \[\(2, 8\), \(8, 2\)\] patches were embedded before it"):
        encode(model, tokens.clone())
    torch.testing.assert_close(run(model, HIGH), expected)


@torch.no_grad()
@pytest.mark.parametrize("build", [vit, timm_vit])
def test_what_the_base_model_saw_is_over(build):
    model = adapted(build)
    expected = run(model, HIGH)
    with model.disable_adapter():
        run(model, WIDE)
    torch.testing.assert_close(run(model, HIGH), expected)


@torch.no_grad()
def test_tokens_written_over():
    """A buffer holds the tokens of one image after the other."""
    model = adapted(vit)
    expected = [run(model, size) for size in (WIDE, HIGH)]
    base = model.base_model.model
    buffer = torch.empty_like(base.embeddings(picture(WIDE), interpolate_pos_encoding=True))
    for size, wanted in zip((WIDE, HIGH), expected, strict=True):
        buffer.copy_(base.embeddings(picture(size), interpolate_pos_encoding=True))
        torch.testing.assert_close(encode(model, buffer), wanted)


@torch.no_grad()
@pytest.mark.parametrize("build", [vit, timm_vit])
def test_a_compiled_embedding(build):
    model = adapted(build)
    expected = [run(model, size) for size in (WIDE, HIGH)]
    base = model.base_model.model
    (base.embeddings if build is vit else base.patch_embed).compile(backend="eager")
    for size, wanted in zip((WIDE, HIGH), expected, strict=True):
        torch.testing.assert_close(run(model, size), wanted)


@torch.no_grad()
@pytest.mark.parametrize("build", [vit, timm_vit])
def test_compiled_blocks(build):
    model = adapted(build)
    expected = [run(model, size) for size in (WIDE, HIGH)]
    for block in tapped_blocks(model):
        block.compile(backend="eager")
    for size, wanted in zip((WIDE, HIGH), expected, strict=True):
        torch.testing.assert_close(run(model, size), wanted)


def test_nothing_is_kept_of_tensors_that_are_gone():
    model = adapted(vit)
    recorder = next(r for module in model.modules() for r in recorders_of(module))
    for size in (WIDE, HIGH, WIDE, HIGH):
        run(model, size).sum().backward()
        gc.collect()
    assert 0 < len(recorder._tensors) <= 2 + 2 * len(tapped_blocks(model))
    for _, (storage, _) in recorder._tensors.items():
        assert storage.expired()


def test_copies_know_their_own_images():
    model = adapted(vit)
    other = copy.deepcopy(model)
    with torch.no_grad():
        wide, high = run(model, WIDE), run(model, HIGH)
        base, base_of_other = model.base_model.model, other.base_model.model
        tokens = base.embeddings(picture(WIDE), interpolate_pos_encoding=True)
        tokens_of_other = base_of_other.embeddings(picture(HIGH), interpolate_pos_encoding=True)
        torch.testing.assert_close(encode(model, tokens), wide)
        torch.testing.assert_close(encode(other, tokens_of_other), high)
    other.unload()
    assert not any(True for module in other.modules() for _ in recorders_of(module))
    torch.testing.assert_close(run(model, WIDE), wide)
