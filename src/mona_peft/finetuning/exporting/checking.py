"""Whether an exported file gives what PyTorch gives, on photographs and at several batch sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .graph import PIXELS, logits_of
from .runtimes import Run

BATCHES = (1, 3)
#: The largest difference allowed, as a share of the largest logit. Eight bits keep two digits.
TOLERANCES = {"float32": 1e-3, "float16": 2e-2, "int8": 0.2}


@dataclass(frozen=True)
class Check:
    """How far a file is from PyTorch.

    Args:
        difference (`float`): The largest of any logit.
        relative (`float`): The same, over the largest logit.
        agreement (`float`): Share of the pictures whose likeliest labels agree.
        batches (`tuple[int, ...]`): Batch sizes that were run.
        adapters (`int`): Sets of adapter weights that were run.
    """

    difference: float
    relative: float
    agreement: float
    batches: tuple[int, ...]
    adapters: int = 1


@torch.no_grad()
def compare(run: Run, model: nn.Module, pixels: Tensor, adapters: Sequence[Mapping[str, tuple[str, Tensor]]]) -> Check:
    """Compare a file with the model on the last pictures of `pixels`, at each of `BATCHES`.

    Args:
        run (`Run`): The file.
        model (`nn.Module`): In evaluation mode.
        pixels (`Tensor`): `(B, 3, H, W)`.
        adapters (`Sequence[Mapping]`): Inputs of the file besides the pixels, each set as `(model's name, tensor)` by
            the input's name; a single empty one where there are none.
    """
    differences, shares, agreed = [], [], []
    for given in adapters:
        for size in BATCHES:
            batch = pixels[-size:]
            found = run({PIXELS: batch, **{name: tensor for name, (_, tensor) in given.items()}}).float()
            expected = logits_of(model, dict(given.values()), batch).float()
            differences.append(float((found - expected).abs().nan_to_num(torch.inf).max()))
            shares.append(differences[-1] / max(float(expected.abs().max()), 1e-6))
            agreed.append((found.argmax(-1) == expected.argmax(-1)).float().mean().item())
    return Check(max(differences), max(shares), sum(agreed) / len(agreed), BATCHES, len(adapters))


def other_weights(tensors: Mapping[str, tuple[str, Tensor]], seed: int) -> dict[str, tuple[str, Tensor]]:
    """Weights as of another adapter: the given ones with noise of half their spread."""
    generator = torch.Generator().manual_seed(seed)
    changed = {}
    for name, (place, tensor) in tensors.items():
        spread = float(tensor.float().std()) if tensor.numel() > 1 else float(tensor.abs().max())
        noise = torch.randn(tensor.shape, generator=generator) * 0.5 * (spread or 0.02)
        changed[name] = (place, tensor + noise.to(tensor))
    return changed
