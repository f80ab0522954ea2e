"""The fast path on a GPU never waits for it: shown without one, on fake CUDA tensors, which have no values to read."""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from mona_peft.blocks.layout import TokenLayout
from mona_peft.tuners.mona import Mona, fast, operator
from mona_peft.tuners.mona.weights import Parameters

LAYOUT = TokenLayout(5, 7, 1, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("add", [True, False])
def test_a_step_reads_no_value_of_a_tensor(dtype, add, monkeypatch):
    monkeypatch.setattr(fast, "supports", lambda mona, x: True)
    monkeypatch.setattr(operator, "is_traced", lambda: False)  # the operations themselves are to be seen
    with torch.device("meta"):
        mona = Mona(32, 8).to(dtype).train()
    with FakeTensorMode(allow_non_fake_inputs=True):
        mona = mona.to_empty(device="cuda")
        x, extra = torch.empty(2, 4, 38, 32, device="cuda", dtype=dtype).unbind()
        x.requires_grad_()
        if add:
            out, delta = mona.stream(x, LAYOUT, extra, split=True)
            assert out.is_cuda and out.shape == delta.shape == x.shape
        else:
            assert mona.delta(x, LAYOUT).is_cuda
        # Autograd's engine wants a real GPU, so the backward pass is called by hand.
        with torch.no_grad():
            parameters = Parameters.of(mona)
            weights = parameters.fuse(dtype)
            narrow = torch.empty(4, 38, 8, device="cuda", dtype=dtype)
            options = fast.Options(LAYOUT, 1e-6, 1.1, add=add)
            backward = fast._Backward(weights, options, not add, needs_x=True, needs_weights=True)
            grad_x = backward.run((x.detach(), narrow, narrow), *([extra, None] if add else [None, extra]))
            assert grad_x.is_cuda and grad_x.shape == x.shape
            grads = parameters.gradients(backward.grads)
            assert [g.shape for g in grads] == [p.shape for p in parameters.flat()]
        with pytest.raises(DataDependentOutputException):
            grads[0].sum().item()  # what the test would catch
