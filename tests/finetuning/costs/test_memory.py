"""What training holds besides the weights, against a count by hand."""

import gc
import weakref
from types import SimpleNamespace

import torch
from torch import nn

from mona_peft.finetuning.costs.memory import training_memory

TASK = SimpleNamespace(loss=lambda model, batch: model(batch["x"]).sum())


def test_activations_gradients_and_states_are_counted_once():
    model = nn.Sequential(nn.Linear(8, 16), nn.Sigmoid(), nn.Linear(16, 4))
    batch = {"x": torch.randn(32, 8)}
    trained = 8 * 16 + 16 + 16 * 4 + 4
    # The input, and the sigmoid's output, kept by the sigmoid and by the second layer.
    assert training_memory(TASK, model, batch) == 4 * (32 * 8 + 32 * 16 + 3 * trained)


def test_frozen_layers_keep_nothing():
    model = nn.Sequential(nn.Linear(8, 16), nn.Sigmoid(), nn.Linear(16, 4))
    model[0].requires_grad_(False)
    batch = {"x": torch.randn(32, 8)}
    assert training_memory(TASK, model, batch) == 4 * (32 * 16 + 3 * (16 * 4 + 4))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_graph_of_the_batch_is_freed():
    """A study counts before each of its runs: what a count leaves behind adds up."""
    model, graphs = nn.Sequential(nn.Linear(8, 16), nn.Sigmoid()), weakref.WeakSet()

    class Mark:
        pass

    def loss(model, batch):
        output = model(batch["x"])  # the sigmoid keeps its own output
        mark = Mark()
        graphs.add(mark)
        output.grad_fn.metadata["mark"] = mark  # lives as long as the graph
        return output.sum()

    training_memory(SimpleNamespace(loss=loss), model, {"x": torch.randn(32, 8)})
    gc.collect()
    assert not graphs


def test_nothing_of_the_model_changes():
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    training_memory(TASK, model, {"x": torch.randn(32, 8)})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
