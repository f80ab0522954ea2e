"""Drop path on both branches of a Swin block, against the block of the paper's code composed by hand."""

import copy

import pytest
import torch
from transformers import SwinForImageClassification
from transformers.models.swin.modeling_swin import SwinLayer

from mona_peft.blocks.layout import TokenLayout
from mona_peft.blocks.tap import TappedBlock
from mona_peft.finetuning.methods import apply_method
from mona_peft.finetuning.models.building import build_model
from mona_peft.finetuning.models.classifier import load_classifier
from tests.finetuning.tasks.tiny_dense import batch_of, tiny_task, write_swin
from tests.support.models import images, randomise, swin_config

NAMES = [f"class {number}" for number in range(5)]
RATE = 0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swin")
    torch.manual_seed(0)
    SwinForImageClassification(swin_config(depths=[2, 3], initializer_range=0.2)).save_pretrained(folder)
    return folder


def blocks_of(model):
    return [module for module in model.modules() if isinstance(module, SwinLayer)]


def mona_model(folder, drop_path=RATE):
    model = load_classifier(str(folder), NAMES, drop_path=drop_path)
    model = apply_method(model, "mona", bottleneck_dim=4, mona_dropout=0.0)
    randomise(model)
    return model


def branches(block, x, size):
    """Attention branch of x, and the MLP branch as a function, of a block in evaluation without its adapters."""
    bare = copy.deepcopy(block).eval()
    bare.mona.enable_adapters(False)
    seen = []
    bare.layernorm_after.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    bare(x, size)
    return seen[0] - x, lambda stream: bare.mlp(bare.layernorm_after(stream))


def compose(block, x, size, masks):
    """x1 = Mona1(x + m1 Attn(x)), y = Mona2(x1 + m2 MLP(x1)): the official block, with given masks."""
    layout, mona = TokenLayout(*size), block.mona
    attention, mlp = branches(block, x, size)
    x1 = mona.mona_attention["default"](x + masks[0] * attention, layout)
    return mona.mona_mlp["default"](x1 + masks[1] * mlp(x1), layout)


def draw_masks(rate, batch):
    """What two drop paths of a block draw, the attention branch's first: 0, or 1 over the chance of staying."""
    return [torch.floor(torch.rand(batch, 1, 1) + 1 - rate) / (1 - rate) for _ in range(2)]


def test_both_branches_are_dropped_as_in_the_official_block(folder):
    model = mona_model(folder).train()
    for number, block in enumerate(blocks_of(model)):
        rate = RATE * number / 4  # linear over the five blocks of both stages
        assert isinstance(block, TappedBlock)
        side = 16 if number < 2 else 8
        x = torch.randn(6, side * side, block.layernorm_after.normalized_shape[0], requires_grad=True)
        torch.manual_seed(number)
        found = block(x, (side, side))
        found = found[0] if isinstance(found, tuple) else found
        torch.manual_seed(number)
        masks = draw_masks(rate, 6) if rate else [torch.ones(6, 1, 1)] * 2
        expected = compose(block, x, (side, side), masks)
        assert torch.allclose(found, expected, atol=1e-5)
        wanted = [x, *block.mona.parameters()]
        probe = torch.randn_like(found)
        grads = zip(*(torch.autograd.grad((out * probe).sum(), wanted) for out in (found, expected)), strict=True)
        for one, other in grads:
            assert torch.allclose(one, other, atol=1e-4 * (1 + other.abs().max()))
        if number == 4:  # the draw tells the branches apart
            assert {float(mask) for mask in masks[0].flatten()} == {0, 2} and (masks[0] != masks[1]).any()


def test_a_dropped_mlp_gives_no_gradient_to_what_is_in_it(folder):
    """Adapters on the MLP's own layers are in the branch; Mona's, on the stream, are not."""
    for method, marker, stays in (("bottleneck", "mlp.fc2.bottleneck_", False), ("mona", "mona_mlp", True)):
        model = apply_method(load_classifier(str(folder), NAMES, drop_path=0.999), method, bottleneck_dim=4)
        randomise(model, marker="mona_" if stays else "bottleneck_")
        torch.manual_seed(0)
        model.train()(pixel_values=images()).logits.sum().backward()
        last = [p for name, p in model.named_parameters() if "layers.1.blocks.2." in name and marker in name]
        assert last and any(bool(p.grad is not None and p.grad.any()) for p in last) == stays


def test_without_drop_path_transformers_block_is_left_as_it_is(folder):
    for drop_path, hooks in ((None, 0), (0.0, 0), (0.2, 4)):  # the first block's rate is zero
        model = load_classifier(str(folder), NAMES, drop_path=drop_path)
        assert sum(len(block.mlp._forward_hooks) for block in blocks_of(model)) == hooks


def test_names_copies_evaluation_and_unloading(folder):
    plain, dropping = (load_classifier(str(folder), NAMES, drop_path=rate).eval() for rate in (None, RATE))
    assert list(plain.state_dict()) == list(dropping.state_dict())
    dropping.load_state_dict(plain.state_dict())
    x = images()
    assert torch.equal(plain(pixel_values=x).logits, dropping(pixel_values=x).logits)
    adapted = apply_method(dropping, "mona", bottleneck_dim=4)
    copied = copy.deepcopy(adapted)
    for model in (adapted, copied):
        torch.manual_seed(5)
        model.train()
        outputs = [model(pixel_values=x).logits for _ in range(2)]
        assert not torch.equal(*outputs)
    bare = adapted.unload().eval()
    assert not any(isinstance(block, TappedBlock) for block in blocks_of(bare))
    assert torch.allclose(plain(pixel_values=x).logits, bare(pixel_values=x).logits, atol=1e-6)


def test_gradient_checkpointing_draws_the_same_masks(folder):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(1)
        model = mona_model(folder)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        torch.manual_seed(2)
        model(pixel_values=images(4)).logits.square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.allclose(gradients[0][name], grad, atol=1e-5) for name, grad in gradients[1].items())


def test_dense_models_have_it(tmp_path):
    backbone = write_swin(tmp_path)
    task = tiny_task("retinanet", backbone, drop_path=0.4)
    hooks = [block.mlp._forward_hooks.values() for block in blocks_of(task.build_model())]
    rates = [[hook.drop_path.drop_prob for hook in block] for block in hooks]
    assert rates[0] == [] and [rate for (rate,) in rates[1:]] == pytest.approx([0.4 / 3, 0.8 / 3, 0.4])
    # A model of the very architecture takes the rate as well.
    whole = tiny_task("retinanet", backbone, method="full").build_model()
    whole.save_pretrained(tmp_path / "whole")
    again = build_model("retinanet", str(tmp_path / "whole"), task.data.class_names, drop_path=0.4)
    last = blocks_of(again)[-1]
    assert last.drop_path.drop_prob == pytest.approx(0.4) and len(last.mlp._forward_hooks) == 1
    task.loss(task.build_model().train(), batch_of(task, "train")).backward()
