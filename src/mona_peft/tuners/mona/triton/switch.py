"""The switch for Mona's Triton kernels, usable where Triton is not installed."""

from __future__ import annotations

import torch
from torch import nn

from mona_peft.tuners.mona.fast import Filters
from mona_peft.tuners.mona.module import Mona

OLDEST_TRITON = (3, 3)  # older ones have no tuples


def use_triton(model: nn.Module, enabled: bool = True) -> nn.Module:
    """Let every Mona adapter that `model` has now run its depthwise filter as a Triton kernel, in place.

    The kernels are used where the adapter's fast path is (not in compiled models) and handles float32 or half
    precision on a GPU with filters up to 7x7; otherwise PyTorch's operations run, as without the switch. Nothing of
    this is saved with an adapter.

    Args:
        model (`nn.Module`): With Mona adapters, or one itself.
        enabled (`bool`): False goes back to PyTorch's operations.

    Returns:
        `nn.Module`: The model.

    Raises:
        ValueError: If `model` has no Mona adapter.
        ImportError: If Triton is missing or older than 3.3.
        RuntimeError: If PyTorch finds no GPU, unless the kernels run in Triton's interpreter (`TRITON_INTERPRET=1`).
    """
    adapters = [module for module in model.modules() if isinstance(module, Mona)]
    if not adapters:
        raise ValueError(f"{type(model).__name__} has no Mona adapter; call use_triton after adding one.")
    filters = triton_filters() if enabled else Filters()
    for mona in adapters:
        mona.filters = filters
    return model


def triton_filters() -> Filters:
    """The kernels, where Triton and a GPU are; the errors are those of [`use_triton`]."""
    _require_triton()
    from . import depthwise  # not at the top: Triton may be missing

    if not depthwise.INTERPRETED and not torch.cuda.is_available():
        raise RuntimeError("use_triton needs a GPU, and torch.cuda.is_available() is False; leave it out on a CPU.")
    return Filters(depthwise.depthwise, depthwise.kernel_gradient)


def _require_triton() -> None:
    try:
        import triton
    except ImportError as error:
        raise ImportError(
            f"use_triton needs Triton, which cannot be imported ({error}). PyTorch for CUDA installs it on Linux; "
            "otherwise `pip install triton`, or leave use_triton out."
        ) from error
    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < OLDEST_TRITON:
        raise ImportError(f"use_triton needs Triton 3.3, which PyTorch 2.7 brings; {triton.__version__} is installed.")
