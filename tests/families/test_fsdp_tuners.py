"""FSDP1 with PEFT's policy, and FSDP2 down to the leaves, on two processes: the gradients of one process."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from peft.utils.other import fsdp_auto_wrap_policy
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

from tests.support.models import TINY_MODELS, features, images
from tests.tuners.test_other_tuners_lifecycle import CASES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]

METHODS = ("bottleneck", "lorand", "ssf", "vpt", "convpass", "adaptformer", "sct")
NAME = "swin-classifier"


def build(method):
    model = CASES[method].adapted(TINY_MODELS[NAME]).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def backward(model, x):
    loss = features(model(pixel_values=x)).square().mean()
    loss.backward()
    return loss.detach()


def shard_leaves(model):
    """Every module that has parameters of its own, then the rest: the finest sharding there is."""
    for module in list(model.modules()):
        if module is not model and any(True for _ in module.parameters(recurse=False)):
            fully_shard(module)
    return fully_shard(model)


def run(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results = {}
    try:
        for method in METHODS:
            mine = images(4)[2 * rank : 2 * rank + 2]
            model = shard_leaves(build(method))
            loss = backward(model, mine)
            dist.all_reduce(loss)
            gradients = {n: p.grad.full_tensor() for n, p in model.named_parameters() if p.grad is not None}
            results[method, 2] = loss / 2, gradients

            model = build(method)
            policy = fsdp_auto_wrap_policy(model)
            model = FullyShardedDataParallel(
                model, auto_wrap_policy=policy, use_orig_params=True, device_id=torch.device("cpu")
            )
            loss = backward(model, mine)
            dist.all_reduce(loss)
            with FullyShardedDataParallel.summon_full_params(model, with_grads=True):
                gradients = {
                    n.replace("_fsdp_wrapped_module.", ""): p.grad.clone()
                    for n, p in model.named_parameters()
                    if p.grad is not None
                }
            results[method, 1] = loss / 2, gradients
        if rank == 0:
            torch.save(results, f"{folder}/result.pt")
    finally:
        dist.destroy_process_group()


def test_two_shards_have_the_gradients_of_one_process(tmp_path):
    mp.spawn(run, args=(str(tmp_path),), nprocs=2)
    results = torch.load(tmp_path / "result.pt", weights_only=True)
    for method in METHODS:
        model = build(method)
        loss = backward(model, images(4))
        expected = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        for version in (1, 2):
            found, gradients = results[method, version]
            torch.testing.assert_close(found, loss, rtol=1e-5, atol=1e-6)
            # FSDP1 keeps trained and frozen parameters of a unit in one tensor, and has zeros for the frozen
            assert gradients.keys() == expected.keys() or (version == 1 and gradients.keys() > expected.keys())
            for key, gradient in expected.items():
                torch.testing.assert_close(gradients[key], gradient, rtol=1e-3, atol=1e-5)
