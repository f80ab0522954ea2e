"""Whether an exported file gives what PyTorch gives, on photographs and at several batch sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .frames import resize
from .kinds import Outputs
from .runtimes import Run

BATCHES = (1, 3)
#: The largest difference allowed, as a share of the largest number of an output. Eight bits keep two digits.
TOLERANCES = {"float32": 1e-3, "float16": 2e-2, "int8": 0.2}


@dataclass(frozen=True)
class Check:
    """How far a file is from PyTorch.

    Args:
        difference (`float`): The largest of any number of any output.
        relative (`float`): The largest over the largest number of its output.
        agreement (`float`): Share of the pictures whose likeliest labels agree; of a segmenter, of the pixels, and of
            a detector, of its candidates or queries.
        batches (`tuple[int, ...]`): Batch sizes that were run.
        adapters (`int`): Sets of adapter weights that were run.
        sizes (`tuple[tuple[int, int], ...]`): Heights and widths of the pictures.
    """

    difference: float
    relative: float
    agreement: float
    batches: tuple[int, ...]
    adapters: int = 1
    sizes: tuple[tuple[int, int], ...] = ()


@torch.no_grad()
def compare(
    run: Run,
    outputs: Outputs,
    inputs: Mapping[str, Tensor],
    adapters: Sequence[Mapping[str, tuple[str, Tensor]]],
    sizes: Sequence[tuple[int, int]],
) -> Check:
    """Compare a file with the model on the last pictures of `inputs`, at each of `BATCHES` and of `sizes`.

    Args:
        run (`Run`): The file.
        outputs (`Outputs`): The model, in evaluation mode.
        inputs (`Mapping[str, Tensor]`): Pictures `(B, 3, H, W)`, and their mask where the graph takes one.
        adapters (`Sequence[Mapping]`): Inputs of the file besides those, each set as `(model's name, tensor)` by the
            input's name; a single empty one where there are none.
        sizes (`Sequence[tuple[int, int]]`): Heights and widths that the pictures are resized to.
    """
    found = []
    for given in adapters:
        tensors = {name: tensor for name, (_, tensor) in given.items()}
        for size in sizes:
            for count in BATCHES:
                batch = {name: tensor[-count:] for name, tensor in resize(inputs, size).items()}
                expected = outputs.with_tensors(dict(given.values()), batch)
                found.append(_differences(run({**batch, **tensors}), expected, outputs.kind.class_axis))
    differences, shares, agreed = zip(*found, strict=True)
    agreement = sum(agreed) / len(agreed)
    return Check(max(differences), max(shares), agreement, BATCHES, len(adapters), tuple(sizes))


def _differences(found: Sequence[Tensor], expected: Sequence[Tensor], axis: int) -> tuple[float, float, float]:
    """Largest difference, largest share, and how many labels of the first output agree."""
    differences, shares = [], []
    for ours, theirs in zip(found, expected, strict=True):
        differences.append(float((ours.float() - theirs.float()).abs().nan_to_num(torch.inf).max()))
        shares.append(differences[-1] / max(float(theirs.abs().max()), 1e-6))
    agreed = (found[0].argmax(axis) == expected[0].argmax(axis)).float().mean().item()
    return max(differences), max(shares), agreed


def other_weights(tensors: Mapping[str, tuple[str, Tensor]], seed: int) -> dict[str, tuple[str, Tensor]]:
    """Weights as of another adapter: the given ones with noise of half their spread."""
    generator = torch.Generator().manual_seed(seed)
    changed = {}
    for name, (place, tensor) in tensors.items():
        spread = float(tensor.float().std()) if tensor.numel() > 1 else float(tensor.abs().max())
        noise = torch.randn(tensor.shape, generator=generator) * 0.5 * (spread or 0.02)
        changed[name] = (place, tensor + noise.to(tensor))
    return changed
