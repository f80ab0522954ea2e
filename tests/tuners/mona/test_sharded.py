"""Sharded parts: FSDP2 on each part of an adapter, on compiled blocks, and FSDP1 as PEFT wraps a model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from peft import get_peft_model
from peft.utils.other import fsdp_auto_wrap_policy
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

from mona_peft import Mona, MonaConfig
from mona_peft.blocks.tapped import TappedBlock
from tests.support.models import TINY_MODELS, images, randomise

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def build() -> nn.Module:
    model = get_peft_model(TINY_MODELS["vit-classifier"].build(), MonaConfig(bottleneck_dim=4, mona_dropout=0.0))
    randomise(model)
    return model.train()


def every_part(model: nn.Module) -> nn.Module:
    for mona in [module for module in model.modules() if isinstance(module, Mona)]:
        for part in (mona.norm.norm, mona.norm, mona.down, *mona.depthwise, mona.pointwise, mona.up):
            fully_shard(part)
    fully_shard(model)
    return model


def every_adapter(model: nn.Module) -> nn.Module:
    for mona in [module for module in model.modules() if isinstance(module, Mona)]:
        fully_shard(mona)
    fully_shard(model)
    return model


def as_peft_wraps(model: nn.Module) -> nn.Module:
    policy = fsdp_auto_wrap_policy(model)
    return FullyShardedDataParallel(
        model, auto_wrap_policy=policy, use_orig_params=True, device_id=torch.device("cpu")
    )


WAYS: dict[str, Callable[[nn.Module], nn.Module]] = {
    way.__name__: way for way in (every_part, every_adapter, as_peft_wraps)
}


def step(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The loss before and after a step of gradient descent: both passes count."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    before = model(pixel_values=x).logits.square().mean()
    before.backward()
    optimizer.step()
    with torch.no_grad():
        return torch.stack([before.detach(), model(pixel_values=x).logits.square().mean()])


def run(rank: int, way: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        loss = step(WAYS[way](build()), images(4))
        torch.save(loss, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("way", WAYS)
def test_a_step_is_that_of_one_process(way, tmp_path):
    mp.spawn(run, args=(way, str(tmp_path)), nprocs=2)
    wanted = step(build(), images(4))
    assert wanted[1] < 0.99 * wanted[0], "the step is large enough to tell"
    for rank in range(2):
        got = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-7)


SIZES = ((4, 32, 32), (6, 32, 48), (2, 48, 32))


class Compiler:
    """A compiler's backend that counts the adapters' operators it is given."""

    def __init__(self) -> None:
        self.graphs = self.operators = 0

    def __call__(self, module: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        self.graphs += 1
        self.operators += sum("mona_peft" in str(node.target) for node in module.graph.nodes)
        return torch._dynamo.lookup_backend("aot_eager")(module, inputs)


def steps(model: nn.Module) -> torch.Tensor:
    """The losses of steps on batches and images of several sizes."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    losses = []
    for size in SIZES:
        optimizer.zero_grad()
        loss = model(pixel_values=images(*size), interpolate_pos_encoding=True).logits.square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def run_compiled(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        model, compiler = build(), Compiler()
        for block in [module for module in model.modules() if isinstance(module, TappedBlock)]:
            block.compile(backend=compiler, dynamic=True)
            fully_shard(block)
        fully_shard(model)
        losses = steps(model)
        torch.save((losses, compiler.graphs, compiler.operators), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_compiled_blocks_of_any_size_train_as_one_process_does(tmp_path):
    """Each block is compiled as one operator an adapter, and then sharded."""
    mp.spawn(run_compiled, args=(str(tmp_path),), nprocs=2)
    model = build()
    wanted, adapters = steps(model), sum(isinstance(module, Mona) for module in model.modules())
    assert wanted.unique().numel() == len(SIZES)
    for rank in range(2):
        got, graphs, operators = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-7)
        assert operators >= adapters and operators % adapters == 0, (graphs, operators)
