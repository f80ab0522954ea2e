"""What tells the width and the type of a block's residual stream."""

import pytest
import torch
from torch import nn

from mona_peft.blocks.modules import stream_type, stream_width
from mona_peft.blocks.spec import BlockSpec

TOKENS = BlockSpec("Block", "entry", "height,width")
IMAGES = BlockSpec("Block", grid="channels_first")


class Block(nn.Module):
    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


@pytest.mark.parametrize(
    ("spec", "children", "width"),
    [
        (TOKENS, {"entry": nn.LayerNorm(6), "mlp": nn.Linear(6, 9)}, 6),
        (TOKENS, {"entry": nn.Sequential(nn.Identity(), nn.Linear(5, 9))}, 5),
        (IMAGES, {"first": nn.Conv2d(3, 4, 1), "last": nn.Conv2d(4, 8, 1), "norm": nn.BatchNorm2d(8)}, 8),
        (IMAGES, {"first": nn.Conv2d(3, 4, 1), "last": nn.Linear(4, 7), "act": nn.ReLU()}, 7),
    ],
)
def test_width_and_type_come_from_one_layer(spec, children, width):
    block = Block(**children).to(torch.bfloat16)
    assert stream_width(block, spec) == width
    assert stream_type(block, spec) == (torch.device("cpu"), torch.bfloat16)


@pytest.mark.parametrize(
    ("spec", "children", "lacks"),
    [
        (TOKENS, {"entry": nn.Identity(), "mlp": nn.Linear(6, 9)}, "'entry' has no parameters"),
        (IMAGES, {"norm": nn.BatchNorm2d(8)}, "it has no convolution and no linear layer"),
    ],
)
def test_a_block_that_does_not_tell_is_refused(spec, children, lacks):
    for ask in (stream_width, stream_type):
        with pytest.raises(ValueError, match=f"stream of Block is unknown: {lacks}. Give .* in a `BlockSpec`"):
            ask(Block(**children), spec)
