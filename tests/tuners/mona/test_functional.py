"""Mona's one function equals the formulas: forward, backward, in every option and type."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from mona_peft import Mona
from mona_peft.blocks.layout import TokenLayout
from mona_peft.tuners.mona import fast
from mona_peft.tuners.mona.dropout import dropout
from mona_peft.tuners.mona.reference import plain_delta

GRID = (6, 5)
WIDTH = 24

CASES = {
    "default": {},
    "scalar scales": {"scale": "scalar"},
    "no convolution biases": {"conv_bias": False},
    "one kernel": {"kernel_sizes": (3,)},
    "kernel beyond the grid": {"kernel_sizes": (9, 1)},
    "dropout": {"dropout": 0.3},
    "v1": {"variant": "v1"},
    "v2": {"variant": "v2"},
    "v3": {"variant": "v3"},
    "v2 with scalars": {"variant": "v2", "scale": "scalar"},
    "in proportion to the stream": {"output_scale": "stream", "dropout": 0.3},
    "v2 in proportion to the stream": {"variant": "v2", "output_scale": "stream"},
    "v3 with dropout, no biases": {"variant": "v3", "dropout": 0.5, "conv_bias": False},
}
LAYOUTS = {"patches": TokenLayout(*GRID), "extra tokens": TokenLayout(*GRID, 2, 1), "prefix": TokenLayout(*GRID, 1)}


def make_mona(dtype=torch.float64, **options) -> Mona:
    mona = Mona(WIDTH, **{"bottleneck_dim": 8, "dropout": 0.0, "init_weights": False, **options})
    with torch.no_grad():  # away from the scales' special first values
        for parameter in mona.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return mona.to(dtype)


def make_tokens(layout: TokenLayout, batch=3, dtype=torch.float64) -> torch.Tensor:
    tokens = layout.height * layout.width + layout.prefix + layout.suffix
    return torch.randn(batch, tokens, WIDTH, dtype=dtype, requires_grad=True)


def plain(mona: Mona, x: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
    drop = functools.partial(dropout, p=mona.dropout.p, training=mona.training)
    return plain_delta(mona, x, layout, drop)


def run(mona: Mona, x: torch.Tensor, function) -> list[torch.Tensor]:
    """The result of `function` and all gradients, with seeded dropout and output gradients."""
    torch.manual_seed(1)
    results = function(x)
    results = results if isinstance(results, tuple) else (results,)
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r.dtype) for r in results]
    gradients = torch.autograd.grad(results, [x, *mona.parameters()], weights)
    return [*(r.detach() for r in results), *gradients]


def assert_equal(got: list[torch.Tensor], wanted: list[torch.Tensor], tolerance: float = 1e-12) -> None:
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        assert (one - other).abs().max() <= tolerance * other.abs().max()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_equals_the_formulas(options, layout):
    mona, x = make_mona(**options), make_tokens(layout)
    assert mona.runs_fast(x) == (mona.variant == "final")
    wanted = run(mona, x, lambda x: x + plain(mona, x, layout))
    assert_equal(run(mona, x, lambda x: mona(x, layout)), wanted)
    mona.fast_path = False
    assert_equal(run(mona, x, lambda x: mona(x, layout)), wanted)


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("output_scale", ["none", "stream"])
def test_equals_the_formulas_in_parts(output_scale, batch, monkeypatch):
    """Two images at a time, the last part smaller than the others."""
    layout = LAYOUTS["extra tokens"]
    mona, x = make_mona(dropout=0.2, output_scale=output_scale), make_tokens(layout, batch)
    monkeypatch.setattr(fast, "CHUNK_BYTES", 2 * x[0].numel() * x.element_size())
    wanted = run(mona, x, lambda x: x + plain(mona, x, layout))
    assert_equal(run(mona, x, lambda x: mona(x, layout)), wanted)


@pytest.mark.parametrize("output_scale", ["none", "stream"])
def test_delta_alone(output_scale):
    layout = LAYOUTS["prefix"]
    mona, x = make_mona(dropout=0.2, output_scale=output_scale), make_tokens(layout)
    assert_equal(run(mona, x, lambda x: mona.delta(x, layout)), run(mona, x, lambda x: plain(mona, x, layout)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("output_scale", ["none", "stream"])
def test_stream_with_something_to_add(output_scale, split, dtype):
    """As a block uses it: another delta comes in, this one's goes out, and gradients arrive through both results."""
    layout = LAYOUTS["patches"]
    mona = make_mona(dropout=0.2, dtype=dtype, output_scale=output_scale)
    x, extra = make_tokens(layout, dtype=dtype), None
    extra = torch.randn_like(x)

    exact, more = copy.deepcopy(mona).double(), extra.double()

    def formula(x):
        stream = x + more * x
        delta = plain(exact, stream, layout)
        return (stream + delta, delta) if split else stream + delta

    def function(x):
        out, delta = mona.stream(x, layout, extra * x, split)
        return (out, delta) if split else out

    tolerance = 1e-12 if dtype == torch.float64 else 0.06  # eight digits of bfloat16 over the longest sums
    wanted = [t.to(dtype) for t in run(exact, x.detach().double().requires_grad_(), formula)]
    assert_equal(run(mona, x, function), wanted, tolerance)


def test_in_proportion_to_the_stream():
    """What is added is that of the paper's adapter times the size of the token."""
    layout = LAYOUTS["prefix"]
    mona, x = make_mona(output_scale="stream"), make_tokens(layout)
    other = make_mona(output_scale="none")
    other.load_state_dict(mona.state_dict())
    size = x.square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(mona.delta(x, layout), size * other.delta(x, layout), rtol=1e-12, atol=0)


def test_a_token_of_zeros_stays_and_has_a_finite_gradient():
    layout = LAYOUTS["prefix"]
    mona, x = make_mona(output_scale="stream"), torch.zeros(2, 31, WIDTH, dtype=torch.float64, requires_grad=True)
    out = mona(x, layout)
    assert not out.any()
    out.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


def test_only_what_was_added_is_used():
    """The new stream may be thrown away."""
    layout = LAYOUTS["patches"]
    mona, x = make_mona(), make_tokens(layout)
    got = run(mona, x, lambda x: mona.stream(x, layout, split=True)[1])
    assert_equal(got, run(mona, x, lambda x: plain(mona, x, layout)))


def test_image_shaped_input():
    layout = LAYOUTS["patches"]
    mona = make_mona()
    x = torch.randn(2, WIDTH, *GRID, dtype=torch.float64).permute(0, 2, 3, 1).requires_grad_()  # not contiguous
    got = run(mona, x, lambda x: mona(x, layout))
    assert_equal(got, run(mona, x, lambda x: x + plain(mona, x, layout)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [LAYOUTS["patches"], LAYOUTS["extra tokens"]], ids=["patches", "extra tokens"])
def test_rounds_no_worse_than_the_formulas(dtype, layout):
    """Against float64 the errors of results and gradients, averaged over draws, are those of the plain form."""
    pairs = [rounding_errors(dtype, layout, seed) for seed in range(80)]
    error_fast, error_plain = (sum(pair[place] for pair in pairs) for place in (0, 1))
    assert error_fast.max() <= 1.1 * error_plain.max()
    assert error_fast.mean() <= 1.1 * error_plain.mean()


def rounding_errors(dtype, layout, seed) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    exact, x = make_mona(), make_tokens(layout, batch=8)
    mona = copy.deepcopy(exact).to(dtype)
    exact.load_state_dict(mona.state_dict())
    x_cast = x.detach().to(dtype).requires_grad_()
    truth = run(exact, x_cast.detach().double().requires_grad_(), lambda x: x + plain(exact, x, layout))
    fast_results = run(mona, x_cast, lambda x: mona(x, layout))
    plain_results = run(mona, x_cast, lambda x: x + plain(mona, x, layout))
    return errors(fast_results, truth), errors(plain_results, truth)


def errors(got: list[torch.Tensor], truth: list[torch.Tensor]) -> torch.Tensor:
    pairs = zip(got, truth, strict=True)
    return torch.stack([(one.double() - other).norm() / other.norm() for one, other in pairs])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stream_with_float32_adapters(dtype):
    layout = LAYOUTS["patches"]
    mona, x = make_mona(torch.float32), make_tokens(layout, dtype=dtype)
    out = mona(x, layout)
    assert out.dtype == dtype
    out.float().square().sum().backward()
    gradients = [p.grad.clone() for p in mona.parameters()]
    mona.zero_grad()
    x_cast = x.detach().float().requires_grad_()
    wanted = x_cast + plain(mona, x_cast, layout)
    half_step = 0.5 * torch.finfo(dtype).eps  # what a single rounding of the exact sum may be off
    assert ((out.float() - wanted).abs() <= 1.001 * half_step * wanted.abs() + 1e-6).all()
    wanted.to(dtype).float().square().sum().backward()
    assert_equal([p.grad for p in mona.parameters()], gradients, 1e-5)
    assert_equal([x.grad.float()], [x_cast.grad], torch.finfo(dtype).eps)


def test_autocast():
    layout = LAYOUTS["extra tokens"]
    mona, x = make_mona(torch.float32, dropout=0.2), make_tokens(layout, batch=8, dtype=torch.float32)
    truth = run(mona, x, lambda x: x + plain(mona, x, layout))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = run(mona, x, lambda x: mona(x, layout))
        wanted = run(mona, x, lambda x: x + plain(mona, x, layout))
    assert [t.dtype for t in got] == [t.dtype for t in wanted]
    error_fast, error_plain = (errors([t.double() for t in ts], [t.double() for t in truth]) for ts in (got, wanted))
    assert 1e-4 < error_fast.mean() <= 1.1 * error_plain.mean()  # it does compute in bfloat16


def test_autocast_leaves_float64_as_it_is():
    layout = LAYOUTS["extra tokens"]
    mona, x = make_mona(), make_tokens(layout)
    wanted = run(mona, x, lambda x: x + plain(mona, x, layout))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert mona.down(x).dtype == torch.float64
        assert mona.runs_fast(x)
        assert_equal(run(mona, x, lambda x: mona(x, layout)), wanted)


@pytest.mark.parametrize("options", [{}, {"norm": "none"}, {"variant": "v3"}], ids=str)
@pytest.mark.parametrize("shape", ["sequence", "image"])
def test_empty_batch(shape, options):
    mona, x = make_mona(dropout=0.2, **options), make_tokens(LAYOUTS["patches"], batch=0)
    x = x if shape == "sequence" else x.detach().view(0, *GRID, WIDTH).requires_grad_()
    out = mona(x, LAYOUTS["patches"])
    assert out.shape == x.shape
    out.sum().backward()
    assert x.grad.shape == x.shape
    assert all(not p.grad.any() for p in mona.parameters())
    assert mona.delta(x, LAYOUTS["patches"]).shape == x.shape


@pytest.mark.parametrize("split", [False, True])
def test_two_leaves_have_gradients_of_their_own(split):
    layout = LAYOUTS["patches"]
    mona, x, extra = make_mona(), make_tokens(layout), make_tokens(layout)
    for _ in range(2):  # the second time adds to the first gradients
        mona.stream(x, layout, extra, split)[0].square().sum().backward()
    (wanted,) = torch.autograd.grad(mona(x + extra, layout).square().sum(), x)
    assert x.grad.data_ptr() != extra.grad.data_ptr()
    assert_equal([x.grad, extra.grad], [2 * wanted, 2 * wanted])
    shared = [p.grad.untyped_storage().data_ptr() for p in (x, extra, *mona.parameters())]
    assert len(set(shared)) == len(shared)


@pytest.mark.parametrize("saved", ["", "layer_norm", "addmm", "mm", "gelu", "convolution"])
def test_selective_checkpointing(saved):
    """Whatever operations are kept, all or those of one name."""
    layout = LAYOUTS["extra tokens"]
    mona, x = make_mona(), make_tokens(layout)

    def policy(context, operation, *args, **kwargs):
        return CheckpointPolicy.MUST_SAVE if saved in str(operation) else CheckpointPolicy.PREFER_RECOMPUTE

    def function(x):
        contexts = functools.partial(create_selective_checkpoint_contexts, policy)
        return checkpoint(lambda x: mona(x, layout), x, use_reentrant=False, context_fn=contexts)

    assert_equal(run(mona, x, function), run(mona, x, lambda x: mona(x, layout)))
    if saved:  # PyTorch's own dropout changes a tensor in place, which keeping everything does not allow
        mona.dropout.p = 0.3
        function(x).sum().backward()


@pytest.mark.parametrize("options", [{}, {"norm": "none"}, {"variant": "v3"}], ids=str)
def test_dropout_follows_its_own_mode(options):
    """Monte Carlo dropout: the part drops in an adapter that does not train, and the other way round."""
    layout = LAYOUTS["patches"]
    mona, x = make_mona(dropout=0.5, **options).eval(), make_tokens(layout)
    without = mona(x, layout)
    mona.dropout.train()
    assert not torch.equal(mona(x, layout), mona(x, layout))
    mona.train()
    mona.dropout.eval()
    assert torch.equal(mona(x, layout), without)


@pytest.mark.parametrize(
    "options",
    [{}, {"scale": "scalar", "conv_bias": False}, {"output_scale": "stream"}],
    ids=["official", "paper", "in proportion to the stream"],
)
def test_gradcheck(options, monkeypatch):
    monkeypatch.setattr(fast, "CHUNK_BYTES", 1)
    layout = TokenLayout(3, 2, 1)
    mona = Mona(5, bottleneck_dim=3, dropout=0.0, init_weights=False, **options).double()
    with torch.no_grad():
        mona.norm.norm_scale.fill_(0.7)
    x, extra = (torch.randn(2, 7, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def function(x, extra, *parameters):
        return mona.stream(x, layout, extra, split=True)

    assert torch.autograd.gradcheck(function, (x, extra, *mona.parameters()))


@pytest.mark.parametrize(("output_scale", "more"), [("none", 0), ("stream", 4)])
def test_keeps_only_what_it_must(output_scale, more):
    """In proportion to the stream it is one number more a token, its size."""
    layout = LAYOUTS["patches"]
    mona = make_mona(torch.float32, dropout=0.5, output_scale=output_scale)
    x = make_tokens(layout, dtype=torch.float32)
    kept: dict[int, torch.Tensor] = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
        out = mona(x, layout)
    per_token = [t for t in kept.values() if t.shape[:2] == x.shape[:2]]
    assert out.data_ptr() in kept and x.data_ptr() not in kept
    # The result, which the next layer keeps anyway, Down's output, the GELU's input, in which dropout has acted.
    assert sum(t[0, 0].numel() * t.element_size() for t in per_token) == 4 * WIDTH + 2 * 4 * 8 + more
    rest = [t for t in kept.values() if t.shape[:2] != x.shape[:2]]
    assert sum(t.numel() for t in rest) <= sum(p.numel() for p in mona.parameters())


def test_frozen_adapter_passes_the_gradient_on():
    layout = LAYOUTS["patches"]
    mona, x = make_mona(), make_tokens(layout)
    wanted = run(mona, x, lambda x: mona(x, layout))[1]
    mona.requires_grad_(False)
    (got,) = torch.autograd.grad(mona(x, layout), x, run_weights(x))
    assert torch.equal(got, wanted)


def run_weights(x: torch.Tensor) -> torch.Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_input_without_gradient():
    layout = LAYOUTS["patches"]
    mona, x = make_mona(), make_tokens(layout)
    wanted = run(mona, x, lambda x: mona(x, layout))[2:]
    got = torch.autograd.grad(mona(x.detach(), layout), list(mona.parameters()), run_weights(x))
    assert_equal(list(got), wanted)


def test_second_derivatives_are_refused_but_for_the_traceable_form():
    layout = LAYOUTS["patches"]
    mona, x = make_mona(), make_tokens(layout)
    (first,) = torch.autograd.grad(mona(x, layout).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first.sum().backward()
    mona.fast_path = False
    (again,) = torch.autograd.grad(mona(x, layout).square().sum(), x, create_graph=True)
    assert_equal([again.detach()], [first.detach()])
    again.square().sum().backward()
    assert mona.down.weight.grad.abs().sum() > 0


def test_no_gradient_gives_the_same():
    layout = LAYOUTS["extra tokens"]
    mona, x = make_mona(), make_tokens(layout)
    wanted = mona(x, layout).detach()
    with torch.no_grad():
        assert torch.equal(mona(x, layout), wanted)
    with torch.inference_mode():
        assert torch.equal(mona(x, layout), wanted)


def test_layers_with_hooks_or_replaced_are_called():
    layout = LAYOUTS["patches"]
    mona, x = make_mona(), make_tokens(layout)
    wanted = mona(x, layout)
    seen = []
    handle = mona.down.register_forward_hook(lambda *args: seen.append(1))
    assert torch.allclose(mona(x, layout), wanted, rtol=0, atol=1e-12) and seen == [1]
    handle.remove()
    assert mona.runs_fast(x)

    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    mona.up.__class__ = Doubled
    assert torch.allclose(mona(x, layout) - x, 2 * (wanted - x), rtol=0, atol=1e-12)


def test_transforms_of_torch_func_and_forward_mode():
    layout = LAYOUTS["patches"]
    mona, x = make_mona(), make_tokens(layout)
    (wanted,) = torch.autograd.grad(mona(x, layout).sin().sum(), x)
    assert torch.allclose(torch.func.grad(lambda x: mona(x, layout).sin().sum())(x.detach()), wanted, atol=1e-12)
    with torch.no_grad():
        each = torch.func.vmap(lambda x: mona(x[None], layout)[0])(x)
        assert torch.allclose(each, mona(x, layout), rtol=0, atol=1e-12)
    direction = torch.randn_like(x)
    _, slope = torch.func.jvp(lambda x: mona(x, layout).sin().sum(), (x.detach(),), (direction,))
    assert torch.allclose(slope, (wanted * direction).sum(), rtol=1e-12)
