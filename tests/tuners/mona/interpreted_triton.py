"""The Triton kernels equal the plain operations, in Triton's interpreter.

Run by test_triton.py in a process of its own: TRITON_INTERPRET has to be set before anything imports Triton.
"""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from mona_peft import Mona
from mona_peft.blocks.layout import TokenLayout
from mona_peft.finetuning.costs.models import build_model, model_config
from mona_peft.finetuning.methods import apply_method
from mona_peft.tuners.mona import depthwise as plain
from mona_peft.tuners.mona import functional, use_triton
from mona_peft.tuners.mona.triton import depthwise as triton_depthwise
from tests.tuners.mona.test_functional import LAYOUTS, assert_equal, errors, make_mona, make_tokens, run
from tests.tuners.mona.test_functional import plain as by_formulas

SHAPES = {
    "narrow": (TokenLayout(5, 3), 6),
    "single patch between extra tokens": (TokenLayout(1, 1, 2, 1), 4),
    "two strips, two blocks of extra tokens, of channels": (TokenLayout(2, 11, 9, 2), 34),
    "suffix": (TokenLayout(3, 9, 0, 1), 1),
}
DTYPES = [torch.float32, torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)]


@pytest.fixture
def launches(monkeypatch) -> list[tuple[str, tuple]]:
    """The kernels that ran, with their arguments."""
    calls: list[tuple[str, tuple]] = []
    for name in ("filter_kernel", "gradient_kernel"):
        hook = functools.partial(lambda name, *args, **kwargs: calls.append((name, args)), name)
        monkeypatch.setattr(getattr(triton_depthwise, name), "pre_run_hooks", [hook])
    return calls


def names(launches: list[tuple[str, tuple]]) -> list[str]:
    return [name for name, _ in launches]


def make(layout: TokenLayout, channels: int, size: int, dtype=torch.float32, batch: int = 2):
    tokens = layout.height * layout.width + layout.prefix + layout.suffix
    z, grad = torch.randn(2, batch, tokens, channels).to(dtype).unbind()
    return z, grad, torch.randn(channels, 1, size, size).to(dtype), torch.randn(channels).to(dtype)


def assert_rounded(got: torch.Tensor, exact: torch.Tensor) -> None:
    """`got` is `exact` but for sums in float32 and one rounding.

    A GPU rounds to the nearest; the interpreter cuts bfloat16 off, which is off by up to twice as much.
    """
    steps = {torch.float32: 0.0, torch.float16: 0.5, torch.bfloat16: 1.0}[got.dtype]
    allowed = steps * torch.finfo(got.dtype).eps * exact.abs() + 1e-6 * exact.abs().max()
    assert got.shape == exact.shape
    assert ((got.double() - exact).abs() <= allowed).all()


def check(z, grad, kernel, bias, layout):
    """Filter, gradient of the input and of the kernel against those of autograd in float64."""
    z64, kernel64 = (t.double().requires_grad_() for t in (z, kernel))
    exact = functional.depthwise(z64, kernel64, None if bias is None else bias.double(), layout)
    exact.backward(grad.double())
    assert triton_depthwise.fits(z, kernel)
    filtered = triton_depthwise.depthwise(z, kernel, bias, layout)
    assert filtered.is_contiguous()
    assert_rounded(filtered, exact.detach())
    assert_rounded(triton_depthwise.depthwise(grad, kernel.flip(-1, -2), None, layout), z64.grad)
    assert_rounded(triton_depthwise.kernel_gradient(z, grad, kernel, layout), kernel64.grad)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("size", [1, 3, *(pytest.param(size, marks=pytest.mark.slow) for size in (5, 7))])
def test_equals_float64(size, shape, dtype):
    layout, channels = shape
    check(*make(layout, channels, size, dtype), layout)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)], ids=str)
def test_seven_by_seven_equals_float64(dtype):
    layout = TokenLayout(4, 9, 1, 1)
    z, grad, kernel, _ = make(layout, 5, 7, dtype)
    check(z, grad, kernel, None, layout)


@pytest.mark.parametrize("rows", [1, 3])
def test_strips_of_rows(rows, monkeypatch):
    """Shorter than the kernel, and the last one shorter than the others."""
    monkeypatch.setattr(triton_depthwise, "ROWS", rows)
    layout = TokenLayout(4, 3, 1)
    check(*make(layout, 3, 3, batch=1), layout)


@pytest.mark.parametrize("programs", [1, 4])
def test_programs_that_sum_over_several_images(programs, monkeypatch, launches):
    monkeypatch.setattr(triton_depthwise, "PROGRAMS", programs)
    layout = TokenLayout(2, 10, 1, 1)  # two strips
    z, grad, kernel, _ = make(layout, 3, 3, batch=5)
    check(z, grad, kernel, None, layout)
    assert [args[2].shape[0] for name, args in launches if name == "gradient_kernel"] == [max(programs, 2)]


def test_any_strides():
    layout = TokenLayout(4, 3, 1, 1)
    z, grad, kernel, bias = make(layout, 6, 3)
    strided = z.permute(2, 1, 0).contiguous().permute(2, 1, 0)  # (B, N, C), images innermost
    expanded = grad[:1].expand_as(grad)
    doubled = torch.stack([bias, bias], 1)[:, 0]
    check(strided, expanded, kernel.transpose(-1, -2), doubled, layout)
    check(torch.cat([z, z], 1)[:, 5 : 5 + z.shape[1]], torch.cat([grad, grad], 2)[..., 3:9], kernel, bias, layout)


@pytest.mark.parametrize(
    ("layout", "strides"),
    [
        (TokenLayout(3, 1), (2**30 + 8, 3, 1)),
        (TokenLayout(3, 1), (9, 2**30 + 8, 1)),
        (TokenLayout(1, 1, 2), (9, 2**30 + 8, 1)),
        (TokenLayout(1, 1, 1, 1), (9, 2**30 + 8, 1)),
        (TokenLayout(3, 1), (9, 1, 2**30 + 8)),
    ],
    ids=["image", "row", "patch behind extra tokens", "extra token", "channel"],
)
def test_offsets_beyond_32_bits(layout, strides):
    """The third of three lies more than 2^31 elements behind the first."""
    z, grad, kernel, bias = make(layout, 3, 3, torch.float16, batch=3)
    memory = torch.empty(2**31 + 100, dtype=z.dtype)  # what nothing touches takes none
    far, far_grad = (memory.as_strided(z.shape, strides, offset).copy_(t) for offset, t in ((0, z), (40, grad)))
    check(far, far_grad, kernel, bias, layout)


def test_empty():
    layout = TokenLayout(2, 3, 1)
    z, grad, kernel, bias = make(layout, 4, 3, batch=0)
    assert triton_depthwise.depthwise(z, kernel, bias, layout).shape == z.shape
    gradient = triton_depthwise.kernel_gradient(z, grad, kernel, layout)
    assert gradient.shape == kernel.shape and not gradient.any()


def test_other_types_and_sizes_use_the_plain_operations(monkeypatch):
    for name in ("filter_kernel", "gradient_kernel"):
        monkeypatch.setattr(triton_depthwise, name, None)
    layout = TokenLayout(3, 4, 1)
    for size, dtype in ((3, torch.float64), (9, torch.float32)):
        z, grad, kernel, bias = make(layout, 4, size, dtype)
        got = triton_depthwise.depthwise(z, kernel, bias, layout)
        assert torch.equal(got, functional.depthwise(z, kernel, bias, layout))
        got = triton_depthwise.kernel_gradient(z, grad, kernel, layout)
        assert torch.equal(got, plain.kernel_gradient(z, grad, kernel, layout))


def test_shapes_that_do_not_agree_are_refused():
    layout = TokenLayout(3, 4, 1)
    z, grad, kernel, bias = make(layout, 4, 3)
    with pytest.raises(ValueError, match="13 tokens, but .* has 14"):
        triton_depthwise.depthwise(z, kernel, bias, TokenLayout(3, 4, 1, 1))
    with pytest.raises(ValueError, match=r"\(2, 1, 3, 3\) must be \(4, 1, K, K\)"):
        triton_depthwise.depthwise(z, kernel[:2], bias, layout)
    with pytest.raises(ValueError, match=r"\(3,\) must be \(4,\)"):
        triton_depthwise.depthwise(z, kernel, bias[:3], layout)
    with pytest.raises(ValueError, match=r"\(2, 12, 4\) must be that of z, \(2, 13, 4\)"):
        triton_depthwise.kernel_gradient(z, grad[:, 1:], kernel, layout)


STEP = ["filter_kernel"] * 2 + ["gradient_kernel", "filter_kernel"]  # forward, and backward computes it again
SMALL = {"conv_bias": False, "kernel_sizes": (1, 3)}


@pytest.mark.parametrize("layout", [LAYOUTS["patches"], LAYOUTS["extra tokens"]], ids=["patches", "extra tokens"])
@pytest.mark.parametrize("options", [pytest.param({"dropout": 0.3}, marks=pytest.mark.slow), SMALL], ids=str)
def test_adapter_equals_the_formulas(options, layout, launches):
    mona, x = make_mona(torch.float32, **options), make_tokens(layout, batch=2, dtype=torch.float32)
    wanted = run(mona, x, lambda x: x + by_formulas(mona, x, layout))
    assert launches == []
    got = run(use_triton(mona), x, lambda x: mona(x, layout))
    assert names(launches) == STEP
    assert_equal(got, wanted, 1e-5)
    use_triton(mona, enabled=False)
    launches.clear()
    assert_equal(run(mona, x, lambda x: mona(x, layout)), wanted, 1e-5)
    assert launches == []


@pytest.mark.parametrize("autocast", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize(
    ("dtype", "factor"), [pytest.param(torch.float16, 1.1, marks=pytest.mark.slow), (torch.bfloat16, 2.0)], ids=str
)
def test_adapter_rounds_no_worse_than_the_formulas(dtype, factor, autocast, launches):
    """In half precision; bfloat16 to within the interpreter's rounding, see `assert_rounded`."""
    layout = LAYOUTS["extra tokens"]
    exact = make_mona(**SMALL)
    mona = copy.deepcopy(exact).to(torch.float32 if autocast else dtype)
    exact.load_state_dict(mona.state_dict())
    x = make_tokens(layout, batch=4, dtype=mona.down.weight.dtype)
    truth = run(exact, x.detach().double().requires_grad_(), lambda x: x + by_formulas(exact, x, layout))
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        wanted = run(mona, x, lambda x: x + by_formulas(mona, x, layout))
        got = run(use_triton(mona), x, lambda x: mona(x, layout))
    assert names(launches) == STEP
    assert [t.dtype for t in got] == [t.dtype for t in wanted]
    error, plain_error = errors(got, truth), errors(wanted, truth)
    assert 0 < error.mean() <= factor * plain_error.mean() and error.max() <= factor * plain_error.max()


def test_gradient_checkpointing_gives_the_same(launches):
    layout = LAYOUTS["prefix"]
    mona = use_triton(make_mona(torch.float32, dropout=0.2, **SMALL))
    x = make_tokens(layout, batch=2, dtype=torch.float32)
    wanted = run(mona, x, lambda x: mona(x, layout))
    launches.clear()
    got = run(mona, x, lambda x: checkpoint(mona, x, layout, use_reentrant=False))
    assert names(launches) == ["filter_kernel", *STEP]
    assert_equal(got, wanted, 0.0)


def test_copies_keep_the_switch():
    mona = use_triton(make_mona(torch.float32))
    assert copy.deepcopy(mona).filters == mona.filters != make_mona().filters


@pytest.mark.slow
def test_adapted_model(launches):
    """A Swin with adapters, its adapters on the kernels: the logits and gradients of the plain operations."""
    model = apply_method(build_model(model_config("swin-nano", 32)), "mona")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    images = torch.randn(1, 3, 32, 32)

    def step():
        torch.manual_seed(1)
        model.zero_grad()
        logits = model(pixel_values=images).logits
        logits.square().sum().backward()
        return [logits.detach(), *(p.grad for p in model.parameters() if p.requires_grad)]

    wanted = step()
    assert launches == []
    use_triton(model)
    got = step()
    assert len(launches) == 4 * sum(isinstance(module, Mona) for module in model.modules()) > 0
    assert_equal(got, wanted, 1e-4)
