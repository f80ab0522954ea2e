"""FSDP2 on two processes: the loss of one process, and a state dict that goes to and fro."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from peft import get_peft_model, get_peft_model_state_dict
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import fully_shard

from mona_peft import MonaConfig
from mona_peft.blocks.tapped import TappedBlock
from tests.support.models import TINY_MODELS, images, randomise

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

LABELS = torch.tensor([0, 1, 2, 3])
# The first process gets the whole state dict, and gives it to the others when it is loaded.
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
FROM_FIRST = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


def build(name):
    tiny = TINY_MODELS[name]
    options = {"bottleneck_dim": 4, "mona_dropout": 0.0, "modules_to_save": tiny.modules_to_save}
    model = get_peft_model(tiny.build(), MonaConfig(**options)).train()
    randomise(model)
    return model


def step(model, x, labels):
    """One step of SGD; gives back the loss before it."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    loss = model(pixel_values=x, labels=labels).loss
    loss.backward()
    optimizer.step()
    return loss.detach()


def run(rank, name, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        model = build(name)
        blocks = [module for module in model.modules() if isinstance(module, TappedBlock)]
        for block in blocks:
            fully_shard(block)
        fully_shard(model)
        assert all(isinstance(block, TappedBlock) for block in blocks)
        mine = slice(2 * rank, 2 * rank + 2)
        loss = step(model, images(4)[mine], LABELS[mine])
        dist.all_reduce(loss)
        state = get_model_state_dict(model, options=WHOLE)
        restored = copy.deepcopy(state)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        set_model_state_dict(model, restored, options=FROM_FIRST)
        again = get_model_state_dict(model, options=WHOLE)
        if rank == 0:
            assert state.keys() == again.keys()
            assert all(torch.equal(state[key], again[key]) for key in state)
            torch.save({"loss": loss / 2, "state": state}, f"{folder}/result.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("name", ["swin-classifier", "vit-classifier"])
def test_two_shards_train_like_one_process(name, tmp_path):
    mp.spawn(run, args=(name, str(tmp_path)), nprocs=2)
    result = torch.load(tmp_path / "result.pt", weights_only=True)
    model = build(name)
    loss = step(model, images(4), LABELS)
    torch.testing.assert_close(result["loss"], loss, rtol=1e-5, atol=1e-6)
    expected = model.state_dict()
    assert result["state"].keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(result["state"][key], tensor, rtol=1e-4, atol=1e-5)
    adapter = get_peft_model_state_dict(model, state_dict=result["state"])
    assert adapter.keys() == get_peft_model_state_dict(model).keys()
