"""Every guarantee, over the whole matrix of backbones."""

import contextlib
import copy

import pytest
import torch
from peft import PeftModel, get_peft_model

from mona_peft import MonaConfig
from tests.families.family import Family, compose, loss, tapped_blocks, tensors
from tests.families.matrix import FAMILIES
from tests.families.recording import recorded_calls
from tests.support.models import randomise

pytestmark = pytest.mark.filterwarnings("ignore")


def every_family_of(families):
    return pytest.mark.parametrize("family", families, ids=lambda family: f"{family.library}-{family.name}")


every_family = every_family_of(FAMILIES)


def adapted(family: Family, std: float = 0.3, **options):
    model = get_peft_model(family.model(), MonaConfig(bottleneck_dim=4, mona_dropout=0.0, **options)).eval()
    if std:
        randomise(model, std=std)
    return model


def same(one, other, atol=0.0):
    ones, others = tensors(one), tensors(other)
    return len(ones) == len(others) > 0 and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=atol, equal_nan=True)
        for a, b in zip(ones, others, strict=True)
    )


def frozen(family):
    """The base model without gradients: PyTorch picks other kernels for parameters that could have one."""
    return family.model().requires_grad_(False)


def settle(family, model):
    """Run once at every size: Swin changes its windows for good when it meets a small image."""
    with torch.no_grad():
        for size in family.sizes:
            family.call(model, size)


@every_family
def test_starts_as_the_base_model(family):
    base = frozen(family).double()
    settle(family, base)
    model = get_peft_model(copy.deepcopy(base), MonaConfig(bottleneck_dim=4)).eval()
    assert len(tapped_blocks(model)) == family.blocks
    with torch.no_grad():
        for size in family.sizes:
            assert same(family.call(model, size), family.call(base, size), family.rounding)
        randomise(model)
        assert not same(family.call(model), family.call(base))


@every_family
@torch.no_grad()
def test_blocks_agree_with_their_parts(family):
    model = adapted(family).double()
    settle(family, model)
    for number, size, block, args, kwargs, output in recorded_calls(family, model, family.sizes):
        expected = compose(family, block, number, size, args, kwargs)
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-10)


@every_family
def test_every_adapter_parameter_gets_a_gradient_and_nothing_else(family):
    model = adapted(family, std=0.1).train()
    loss(family.call(model)).backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    adapters = {name for name, _ in model.named_parameters() if ".mona_" in name}
    assert reached == adapters


@every_family
def test_hidden_states_carry_the_adapters(family):
    if family.recorded is None:
        pytest.skip("the family records no hidden states")
    base = family.model()
    with torch.no_grad():
        family.call(base, output_hidden_states=True)  # recording must not have been settled before
    model = get_peft_model(base, MonaConfig(bottleneck_dim=4)).eval()
    randomise(model, std=0.3)
    outputs = []
    for block in tapped_blocks(model):
        block.register_forward_hook(lambda m, args, out: outputs.append(out[0] if isinstance(out, tuple) else out))
    states = hidden_states(family, model)
    for number in family.recorded:
        if family.processed:
            found = states_between(family, model, number)
        else:
            found = [same(state, as_tokens(outputs[number])) for state in states]
        assert any(found), f"the output of block {number} is not among the hidden states"


@torch.no_grad()
def hidden_states(family, model):
    return [as_tokens(state) for state in tensors(family.call(model, output_hidden_states=True).hidden_states)]


def as_tokens(state):
    return state.flatten(2).mT if state.dim() == 4 else state


def states_between(family, model, number):
    """Which hidden states the last adapter of a block changes and the first adapter of the next block does not."""
    blocks, states = tapped_blocks(model), hidden_states(family, model)
    with zeroed(blocks[number].mona.mona_mlp):
        changed = [not same(a, b) for a, b in zip(states, hidden_states(family, model), strict=True)]
    if number + 1 < len(blocks):
        with zeroed(blocks[number + 1].mona.mona_attention):
            kept = [same(a, b) for a, b in zip(states, hidden_states(family, model), strict=True)]
        changed = [a and b for a, b in zip(changed, kept, strict=True)]
    return changed


@contextlib.contextmanager
def zeroed(module):
    before = copy.deepcopy(module.state_dict())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    yield
    module.load_state_dict(before)


@every_family
def test_saves_and_loads(family, tmp_path):
    model = adapted(family)
    model.save_pretrained(tmp_path)
    base = family.model()
    torch.manual_seed(99)
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with torch.no_grad():
        assert same(family.call(model), family.call(loaded))


def hooks(model):
    return {name: len(m._forward_hooks) + len(m._forward_pre_hooks) for name, m in model.named_modules()}


def attributes_of(model):
    """Class and attributes of every module."""
    return {name: (type(module), set(vars(module))) for name, module in model.named_modules()}


@every_family
def test_disables_and_unloads(family):
    base = frozen(family)
    reference = copy.deepcopy(base)
    before = attributes_of(base)
    model = get_peft_model(base, MonaConfig(bottleneck_dim=4)).eval()
    randomise(model, std=0.3)
    with torch.no_grad():
        expected = family.call(reference)
        with model.disable_adapter():
            assert same(family.call(model), expected)
        assert not same(family.call(model), expected)
        unloaded = model.unload()
        assert unloaded is base and same(family.call(unloaded), expected)
    assert attributes_of(base) == before
    assert list(base.state_dict()) == list(reference.state_dict())
    assert hooks(base) == hooks(reference)


def gradients(family, model, sizes):
    """The adapters' gradients of all sizes together: every forward pass before the first backward pass."""
    torch.manual_seed(0)  # drop path, dropout
    total = sum(loss(family.call(model, size)) for size in sizes)
    total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check_checkpointing(family, model, reentrant, expected):
    """With gradient checkpointing the gradients are the expected ones."""
    family.enable_checkpointing(model.base_model.model, reentrant)
    actual = gradients(family, model, family.sizes)
    assert actual.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-9, atol=1e-9)


def check_gradients(family, model, part, reentrant):
    """Parameters with `part` in their name, and no others, get a gradient, with checkpointing the same one."""
    model.train()
    expected = gradients(family, copy.deepcopy(model), family.sizes)
    assert expected.keys() == {name for name, _ in model.named_parameters() if part in name}
    if not family.checkpointing or (reentrant and not family.reentrant):
        return
    if getattr(model.base_model.model, "supports_gradient_checkpointing", True):
        check_checkpointing(family, model, reentrant, expected)


@torch.no_grad()
def check_life_cycle(family, adapt, part, std, folder):
    """An adapter starts as the base model, changes it, is disabled, saved, loaded, and unloaded without a trace.

    Args:
        adapt: Gives the `PeftModel` around a base model.
        part: In the names of the adapter's parameters.
        std: Of the values they are given.
    """
    base = frozen(family).double()
    settle(family, base)
    expected, before = family.call(base), (attributes_of(base), hooks(base))
    model = adapt(base).double().eval()
    assert len(tapped_blocks(model)) == family.blocks
    assert same(family.call(model), expected, family.rounding)
    randomise(model, part, std=std)
    model.float().double()  # values that the float32 parameters of a new adapter can take over
    changed = family.call(model)
    assert not same(changed, expected)
    with model.disable_adapter():
        assert same(family.call(model), expected, family.rounding)
    model.save_pretrained(folder)
    again = PeftModel.from_pretrained(frozen(family), folder).double().eval()
    settle(family, again)
    assert same(family.call(again), changed, family.rounding)
    assert model.unload() is base and same(family.call(base), expected, family.rounding)
    assert (attributes_of(base), hooks(base)) == before


@every_family
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_equals_none(family, reentrant):
    if not family.checkpointing or (reentrant and not family.reentrant):
        pytest.skip("the family has no gradient checkpointing of this kind")
    model = adapted(family, std=0.1)
    if not getattr(model.base_model.model, "supports_gradient_checkpointing", True):
        pytest.skip("this release has no gradient checkpointing for the family")
    model = model.double()
    settle(family, model)
    model.train()
    expected = gradients(family, copy.deepcopy(model), family.sizes)
    check_checkpointing(family, model, reentrant, expected)
