"""Where weight decay goes, and the learning rate by step."""

import math

import pytest
import torch
from torch import nn

from mona_peft.finetuning.methods import apply_method
from mona_peft.finetuning.training.config import TrainingConfig
from mona_peft.finetuning.training.optim import make_optimizer, make_schedule, parameter_groups
from tests.support.models import TINY_MODELS


@pytest.mark.parametrize("model_name", ["swin-classifier", "vit-classifier"])
@pytest.mark.parametrize("method", ["full", "mona"])
def test_decay_on_matrices_and_kernels_alone(model_name, method):
    model = apply_method(TINY_MODELS[model_name].build(), method)
    groups = parameter_groups(model, 0.05)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    with_decay, without = ({names[id(p)] for p in group["params"]} for group in groups)
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]
    assert with_decay | without == {name for name, p in model.named_parameters() if p.requires_grad}
    assert not with_decay & without
    assert all(name.endswith(".weight") for name in with_decay)
    assert not any("norm" in name or "position" in name or "token" in name for name in with_decay)
    matrices = {name for name, p in model.named_parameters() if p.requires_grad and p.ndim > 1}
    assert {name for name in matrices - with_decay} == {
        name
        for name in matrices
        if "relative_position" in name or "position_embeddings" in name or "cls_token" in name
    }


def test_a_norm_under_another_name_has_no_decay():
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm((2, 3)))
    with_decay, _ = parameter_groups(model, 0.1)
    assert len(with_decay["params"]) == 1 and with_decay["params"][0] is model[0].weight


def official_decay(name):
    """Whether the official dense configurations (`paramwise_cfg`) decay a parameter of the backbone, by its name."""
    return not any(key in name for key in ("absolute_pos_embed", "relative_position_bias_table", "norm"))


@pytest.mark.parametrize("method", ["full", "mona", "bottleneck", "lora", "norm"])
def test_decay_of_the_dense_recipes(method):
    """All but layer norms and position tables: in the official code these are the names with `norm`.

    There a layer norm inside Mona is `norm` and its scales `gamma`, `gammax`; a batch norm of a head is `bn`.
    """
    model = apply_method(TINY_MODELS["swin-classifier"].build(), method)
    model.head_norms = nn.ModuleList([nn.BatchNorm2d(3), nn.SyncBatchNorm(3), nn.GroupNorm(3, 3)])
    groups = parameter_groups(model, 0.01, "all_but_layer_norms")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    with_decay = {names[id(p)] for group in groups if group["weight_decay"] == 0.01 for p in group["params"]}
    # Our names to the official ones, as far as the rule can tell them apart.
    renamed = {
        name: name.replace("norm_scale", "gamma")
        .replace("input_scale", "gammax")
        .replace("norm.gamma", "gamma")
        .replace("head_norms", "bn")
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    assert with_decay == {name for name, official in renamed.items() if official_decay(official)}
    assert {f"head_norms.{number}.{part}" for number in range(3) for part in ("weight", "bias")} <= with_decay
    if method == "mona":
        assert sum(name.endswith(("norm_scale", "input_scale")) for name in with_decay) == 2 * 2 * 4
        assert sum(name.endswith(("norm.norm.weight", "norm.norm.bias")) for name in renamed) == 2 * 2 * 4
        assert sum("norm.norm." in name for name in with_decay) == 0


def test_the_optimiser_decays_what_its_setting_says():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.LayerNorm(2))
    for decay_on, decayed in (("weights", {"0.weight"}), ("all_but_layer_norms", {"0.weight", "0.bias", "1.weight"})):
        for parameter in model.parameters():
            nn.init.ones_(parameter)
            parameter.grad = torch.zeros_like(parameter)
        optimizer = make_optimizer(model, TrainingConfig(learning_rate=0.1, weight_decay_on=decay_on))
        optimizer.step()
        shrunk = {
            name for name, p in model.named_parameters() if p.flatten()[0].item() == pytest.approx(1 - 0.1 * 0.05)
        }
        assert shrunk == decayed | ({"1.bias"} if decay_on != "weights" else set())
    with pytest.raises(ValueError, match="all_but_layer_norms"):
        TrainingConfig(weight_decay_on="everything")


def test_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="apply a method"):
        make_optimizer(nn.Linear(1, 1).requires_grad_(False), TrainingConfig())


def test_shared_parameters_are_stepped_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert sum(len(group["params"]) for group in parameter_groups(model, 0.1)) == 3


def test_cosine_with_warmup():
    config = TrainingConfig(learning_rate=2.0, warmup_epochs=2, warmup_steps=1, min_lr_ratio=0.01)
    rates = [make_schedule(config, 5, 31)(step) for step in range(32)]
    assert rates[:11] == pytest.approx([2 * (step + 1) / 12 for step in range(11)])
    assert rates[11] == pytest.approx(2.0)
    assert rates[21] == pytest.approx(2 * 0.505)
    assert rates[31] == pytest.approx(0.02)
    assert all(first > second for first, second in zip(rates[11:], rates[12:], strict=False))


def test_other_schedules():
    linear = make_schedule(TrainingConfig(learning_rate=1.0, schedule="linear", min_lr_ratio=0.0), 1, 10)
    assert [linear(step) for step in (0, 5, 10)] == pytest.approx([1.0, 0.5, 0.0])
    step = make_schedule(TrainingConfig(learning_rate=1.0, schedule="step", step_epochs=[2, 3]), 10, 40)
    assert [step(number) for number in (19, 20, 29, 30)] == pytest.approx([1.0, 0.1, 0.1, 0.01])
    constant = make_schedule(TrainingConfig(learning_rate=1.0, schedule="constant"), 10, 40)
    assert constant(39) == 1.0


#: Rates that the authors' logs print before the steps 50, 100 and 150 of ADE20K, by the peak of the run.
ADE20K_LOGS = {6e-5: [1.959e-06, 3.958e-06, 5.955e-06], 3e-4: [9.797e-06, 1.979e-05, 2.977e-05]}


@pytest.mark.parametrize(("peak", "logged"), ADE20K_LOGS.items())
def test_the_rates_of_the_papers_runs_on_ade20k(peak, logged):
    config = TrainingConfig(
        learning_rate=peak,
        schedule="linear",
        warmup_steps=1500,
        warmup_ratio=1e-6,
        decay_from_start=True,
        min_lr_ratio=0,
    )
    rate = make_schedule(config, 1263, 160_000)
    assert [rate(step) for step in (49, 99, 149)] == pytest.approx(logged, rel=5e-4)
    assert rate(80_000) == pytest.approx(peak / 2) and rate(160_000) == 0


def test_cosine_from_the_first_step_times_the_warm_up():
    """The product that mmcv computes: annealing over all steps, less a share in the warm-up that falls to none."""
    config = TrainingConfig(
        learning_rate=2.0, warmup_epochs=20, warmup_ratio=1e-3, min_lr_ratio=0.01, decay_from_start=True
    )
    steps, warmup = 6400, 1280
    rates = [make_schedule(config, 64, steps)(step) for step in range(steps)]
    for step in (0, 1, 640, 1279, 1280, 4000, 6399):
        annealed = 0.02 + 0.5 * (2.0 - 0.02) * (math.cos(math.pi * step / steps) + 1)
        missing = (1 - step / warmup) * (1 - 1e-3) if step < warmup else 0.0
        assert rates[step] == pytest.approx(annealed * (1 - missing))
    assert sum(rates) / steps / 2.0 == pytest.approx(0.407, abs=5e-4), "the mean of the paper's runs"


def test_steps_times_warm_up():
    config = TrainingConfig(learning_rate=1.0, schedule="step", step_epochs=[2], warmup_steps=10, warmup_ratio=0.1)
    rate = make_schedule(config, 10, 40)
    assert [rate(0), rate(5), rate(10), rate(20)] == pytest.approx([0.1, 0.55, 1.0, 0.1])


def test_a_run_that_ends_in_its_warm_up_is_refused_or_told():
    with pytest.raises(ValueError, match="has 40 steps and its warm-up 40 .warmup_steps 20, warmup_epochs 2"):
        make_schedule(TrainingConfig(num_epochs=4, warmup_epochs=2, warmup_steps=20), 10, 40)
    with pytest.warns(UserWarning, match="has 2 steps and its warm-up 200"):
        make_schedule(TrainingConfig(max_steps=2, warmup_epochs=20), 10, 2)
    with pytest.warns(UserWarning, match=r"has 300 steps, and step_epochs \[27, 33\] would lower .* \[270, 330\]"):
        make_schedule(TrainingConfig(max_steps=300, schedule="step", step_epochs=[27, 33]), 10, 300)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"schedule": "cosin"}, "schedule is 'cosin'; it must be one of cosine"),
        ({"schedule": "step"}, "needs step_epochs"),
        ({"num_epochs": 10, "warmup_epochs": 20}, "warmup_epochs is 20, and the run ends after num_epochs 10"),
        ({"num_epochs": 10, "warmup_epochs": 10.0}, "--warmup_epochs 2"),
        ({"num_epochs": 33, "schedule": "step", "step_epochs": [27, 33]}, r"step_epochs has \[33\].*num_epochs 33"),
        ({"mixed_precision": "fp8"}, "mixed_precision is 'fp8'; it must be one of no, fp16"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"save_total_limit": 0}, "save_total_limit"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**changes)


def test_groups_follow_the_schedule():
    optimizer = make_optimizer(nn.Linear(2, 2), TrainingConfig(learning_rate=0.5))
    from mona_peft.finetuning.training.optim import set_learning_rate

    optimizer.param_groups[0]["lr_scale"] = 0.1
    set_learning_rate(optimizer, 1.0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 1.0])
    assert isinstance(optimizer, torch.optim.AdamW)
