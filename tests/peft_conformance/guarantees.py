"""The guarantees, one function each: it holds for a method on a subject, or an error says that it is refused."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from peft import (
    AutoPeftModel,
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.hotswap import hotswap_adapter
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors.torch import load_file, save_file

from tests.support.models import images
from tests.support.subjects import Subject, outputs, run

from .methods import Method

Guarantee = Callable[[Method, Subject, Path], None]
GUARANTEES: dict[str, Guarantee] = {}
FILE = "adapter_model.safetensors"


def guarantee(function: Guarantee) -> Guarantee:
    GUARANTEES[function.__name__] = function
    return function


def same(actual, expected):
    return torch.equal(actual, expected)


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def unchanged(model, before):
    after = model.state_dict()
    return after.keys() == before.keys() and all(same(after[key], before[key]) for key in before)


@guarantee
def starts_as_the_base_model(method, subject, path):
    assert same(run(method.adapt(subject), images()), run(subject.build(), images()))


@guarantee
def only_adapters_and_heads_train(method, subject, path):
    model = method.adapted(subject)
    outputs(model, images()).square().sum().backward()
    for name, parameter in model.named_parameters():
        expected = method.owns(name) or "modules_to_save" in name
        assert parameter.requires_grad == expected, name
        assert (parameter.grad is not None) == expected, name


@guarantee
def a_step_changes_the_adapter_alone(method, subject, path):
    model = method.adapted(subject).train()
    before = state(model)
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)
    outputs(model, images()).square().sum().backward()
    optimizer.step()
    changed = {key for key, value in model.state_dict().items() if not same(value, before[key])}
    assert changed and all(method.owns(key) or "modules_to_save" in key for key in changed)


@guarantee
def saves_and_loads_under_another_seed(method, subject, path):
    model = method.adapted(subject)
    model.save_pretrained(path)
    torch.manual_seed(99)
    loaded = PeftModel.from_pretrained(subject.build(), path).eval()
    assert unchanged(loaded, state(model))
    assert same(run(loaded, images()), run(model, images()))
    assert not any(p.requires_grad for p in loaded.parameters())
    trainable = PeftModel.from_pretrained(subject.build(), path, is_trainable=True)
    assert all(p.requires_grad == (".default." in f"{n}.") for n, p in trainable.named_parameters())


@guarantee
def the_file_holds_the_adapter_alone_without_its_name(method, subject, path):
    method.adapted(subject).save_pretrained(path)
    keys = list(load_file(path / FILE))
    assert keys and all(method.owns(k) or f".{subject.head}." in k for k in keys)
    assert not any("default" in key or "base_layer" in key for key in keys)


@guarantee
def adapters_with_names_inside_names_are_saved_apart(method, subject, path):
    model = method.adapted(subject)
    for seed, name in enumerate(["a", "aa", "default_a"]):
        method.add(model, subject, name, seed=seed)
    model.save_pretrained(path, selected_adapters=["a", "aa"])
    assert sorted(p.name for p in path.iterdir() if p.is_dir()) == ["a", "aa"] and not (path / FILE).exists()
    for name in ("a", "aa"):
        model.set_adapter(name)
        loaded = PeftModel.from_pretrained(subject.build(), path / name).eval()
        assert same(run(loaded, images()), run(model.eval(), images()))


@guarantee
def a_second_adapter_is_loaded_beside_the_first(method, subject, path):
    model = method.adapted(subject)
    first = run(model, images())
    other = method.adapt(subject, **method.other)
    method.fill(other, seed=8)
    other.save_pretrained(path)
    model.load_adapter(path, "second")
    assert same(run(model, images()), first)
    model.set_adapter("second")
    assert same(run(model.eval(), images()), run(other, images()))
    model.set_adapter("default")
    assert same(run(model.eval(), images()), first)


@guarantee
def switching_moves_the_gradients(method, subject, path):
    model = method.adapted(subject)
    method.add(model, subject, "second")
    for name in ("second", "default"):
        model.set_adapter(name)
        trained = {n for n, p in model.named_parameters() if p.requires_grad}
        assert trained and all(f".{name}." in f"{n}." for n in trained)
        assert model.active_adapters == [name]
    model.set_adapter("second", inference_mode=True)
    assert not any(p.requires_grad for p in model.parameters())
    model.set_requires_grad("default")
    assert all(p.requires_grad == (method.owns(n) or "modules_to_save" in n) for n, p in model.named_parameters()
               if ".default." in f"{n}.")  # fmt: skip


@guarantee
def several_adapters_act_together(method, subject, path):
    model = method.adapt(subject, modules_to_save=None)
    method.add(model, subject, "second", modules_to_save=None)
    model.set_adapter("second")
    alone = run(model.eval(), images())
    model.base_model.set_adapter(["default", "second"])
    if method.starts_as_base:
        torch.testing.assert_close(run(model.eval(), images()), alone)  # the first one adds nothing yet
    method.fill(model)
    both = run(model, images())
    assert not torch.allclose(both, alone)
    model.base_model.set_adapter(["second", "default"])
    torch.testing.assert_close(run(model.eval(), images()), both, rtol=1e-4, atol=1e-5)
    model.base_model.set_adapter("second")
    assert same(run(model.eval(), images()), alone)


@guarantee
def several_active_adapters_cannot_share_a_head(method, subject, path):
    model = method.adapted(subject)
    method.add(model, subject, "second")
    if subject.head:
        with pytest.raises(ValueError, match="Only one adapter can be set at a time"):
            model.base_model.set_adapter(["default", "second"])


@guarantee
def disabled_it_is_the_base_model(method, subject, path):
    before = run(subject.build(), images())
    model = method.adapted(subject)
    adapted = run(model, images())
    flags = {n: p.requires_grad for n, p in model.named_parameters()}
    with model.disable_adapter():
        assert same(run(model, images()), before)
        with model.disable_adapter():
            pass
    assert same(run(model, images()), adapted) and not torch.allclose(adapted, before)
    assert {n: p.requires_grad for n, p in model.named_parameters()} == flags


@guarantee
def deleting_leaves_the_others(method, subject, path):
    model = method.adapted(subject)
    first = run(model, images())
    for active in (False, True):
        method.add(model, subject, "second")
        model.set_adapter("second" if active else "default")
        model.delete_adapter("second")
        assert model.active_adapters == ["default"] and list(model.peft_config) == ["default"]
        assert not any(".second" in name for name, _ in [*model.named_modules(), *model.named_parameters()])
        assert same(run(model.eval(), images()), first)
    with pytest.raises(ValueError, match="does not exist"):
        model.delete_adapter("unknown")
    model.delete_adapter("default")
    assert model.active_adapters == []
    assert same(run(model.base_model, images()), run(subject.build(), images()))


@guarantee
def a_name_in_use_is_refused_without_a_change(method, subject, path):
    model = method.adapted(subject)
    before = state(model)
    with pytest.raises(ValueError, match="already exists"):
        model.add_adapter("default", method.make(subject, other=True))
    assert unchanged(model, before)


@guarantee
def unloading_gives_the_base_model_back(method, subject, path):
    base = subject.build()
    before, output = state(base), run(base, images())
    facts = {n: (type(m), len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in base.named_modules()}
    model = method.adapted(subject, base, modules_to_save=None)
    run(model, images())
    assert model.unload() is base
    assert unchanged(base, before) and same(run(base, images()), output)
    assert facts == {n: (type(m), len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in base.named_modules()}
    again, fresh = (method.adapted(subject, b, modules_to_save=None, seed=5) for b in (base, None))
    assert same(run(again, images()), run(fresh, images()))


@guarantee
def merging_keeps_the_output(method, subject, path):
    model = method.adapted(subject)
    expected = run(model, images())
    torch.testing.assert_close(run(model.merge_and_unload(), images()), expected, rtol=1e-3, atol=1e-4)


@guarantee
def merging_in_place_keeps_the_output(method, subject, path):
    model = method.adapted(subject)
    expected = run(model, images())
    model.merge_adapter()
    torch.testing.assert_close(run(model, images()), expected, rtol=1e-3, atol=1e-4)


@guarantee
def adapters_are_combined_by_weight(method, subject, path):
    model = method.adapt(subject, modules_to_save=None)
    model.add_adapter("second", method.make(subject, modules_to_save=None))
    model.add_weighted_adapter(["default", "second"], [0.5, 0.5], "both")
    model.set_adapter("both")
    run(model, images())


@guarantee
def new_adapters_of_a_bf16_model_are_float32(method, subject, path):
    model = method.adapted(subject, subject.build().bfloat16())
    assert {p.dtype for n, p in model.named_parameters() if method.owns(n)} == {torch.float32}
    output = outputs(model, images().bfloat16())
    assert output.dtype == torch.bfloat16
    output.float().square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


@guarantee
def without_autocast_they_have_the_models_type(method, subject, path):
    base = subject.build().bfloat16()
    model = get_peft_model(base, method.make(subject), autocast_adapter_dtype=False).eval()
    method.prepare(model) if method.name != "sct" else None
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    if method.name != "sct":
        assert run(model, images().bfloat16()).isfinite().all()


@guarantee
def the_type_of_all_can_be_changed(method, subject, path):
    model = method.adapted(subject)
    expected = run(model, images())
    model.double()
    torch.testing.assert_close(run(model, images().double()).float(), expected, rtol=1e-3, atol=1e-4)
    model.add_adapter("later", method.make(subject))
    assert {p.dtype for n, p in model.named_parameters() if p.is_floating_point()} == {torch.float64}
    model.float()
    torch.testing.assert_close(run(model, images()), expected, rtol=1e-4, atol=1e-5)


@guarantee
def adapters_follow_the_model_to_a_device(method, subject, path):
    model = method.adapted(subject)
    method.add(model, subject, "second")
    model.to("meta")
    assert all(tensor.is_meta for tensor in model.state_dict().values())


@guarantee
def a_copy_is_independent(method, subject, path):
    original = method.adapted(subject)
    expected = run(original, images())
    method.fill(original, seed=4)
    run(original, images())
    method.fill(original, seed=5)  # copied while nothing has run since the last change, as an average of weights is
    expected = run(copy.deepcopy(original), images())
    assert same(run(original, images()), expected)
    copied = copy.deepcopy(original)
    method.fill(copied, seed=11, std=1.0)
    assert not torch.allclose(run(copied, images()), expected)
    copied.delete_adapter("default")
    assert same(run(original, images()), expected)


@guarantee
def a_model_is_pickled(method, subject, path):
    model = method.adapted(subject)
    again = pickle.loads(pickle.dumps(model))
    assert same(run(again, images()), run(model, images()))
    method.fill(again, seed=11)
    assert not same(run(again, images()), run(model, images()))


@guarantee
def the_state_dict_goes_round(method, subject, path):
    model, other = method.adapted(subject), method.adapt(subject)
    other.load_state_dict(model.state_dict())
    assert same(run(other, images()), run(model, images()))
    third = method.adapt(subject)
    result = set_peft_model_state_dict(third, get_peft_model_state_dict(model))
    assert not result.unexpected_keys and same(run(third, images()), run(model, images()))


@guarantee
def injection_needs_no_wrapper(method, subject, path):
    config = method.make(subject, modules_to_save=None)
    model = inject_adapter_in_model(config, subject.build()).eval()
    method.prepare(model)
    method.fill(model)
    weights = get_peft_model_state_dict(model)
    again = inject_adapter_in_model(config, subject.build(), state_dict=weights).eval()
    set_peft_model_state_dict(again, weights)
    assert list(again.state_dict()) == list(model.state_dict())
    assert same(run(again, images()), run(model, images()))


@guarantee
def weights_of_another_shape_keep_the_model(method, subject, path):
    model = method.adapted(subject)
    model.save_pretrained(path)
    weights = load_file(path / FILE)
    key = [k for k in weights if method.owns(k)][-1]
    save_file({**weights, key: torch.zeros(*weights[key].shape, 2)}, path / FILE)
    before, output = state(model), run(model, images())
    with pytest.raises((ValueError, RuntimeError), match=re.escape(key.rpartition(".")[0].rpartition(".")[2])):
        model.load_adapter(path, "default")
    assert list(model.peft_config) == ["default"] and model.active_adapters == ["default"]
    assert unchanged(model, before) and same(run(model, images()), output)


@guarantee
def another_number_of_classes_can_be_ignored(method, subject, path):
    model = method.adapted(subject)
    model.save_pretrained(path)
    loaded = PeftModel.from_pretrained(subject.build(classes=7), path, ignore_mismatched_sizes=True).eval()
    mine, theirs = model.state_dict(), loaded.state_dict()
    assert all(same(mine[key], theirs[key]) for key in mine if method.owns(key) and ".default." in f"{key}.")
    assert run(loaded, images()).shape[-1] == 7 or not subject.head


@guarantee
def modules_are_saved_by_any_name(method, subject, path):
    names = [*(subject.modules_to_save or ()), subject.norm]
    model = method.adapted(subject, modules_to_save=names)
    expected = run(model, images())
    model.save_pretrained(path)
    assert same(run(PeftModel.from_pretrained(subject.build(), path).eval(), images()), expected)
    parent = model.base_model.model.get_submodule(subject.norm)
    assert list(parent.modules_to_save) == ["default"]


@guarantee
def checkpointed_gradients_are_the_same(method, subject, path):
    def gradients(order: str) -> dict[str, torch.Tensor]:
        base = subject.build()
        if order == "before":
            switch_checkpointing_on(base)
        model = method.adapted(subject, base)
        if order == "after":
            switch_checkpointing_on(model.base_model.model)
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        outputs(model, images()).square().sum().backward()
        return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}

    plain = gradients("never")
    for order in ("before", "after"):
        checkpointed = gradients(order)
        for name, gradient in plain.items():
            torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-3, atol=1e-5, msg=f"{order}: {name}")


def switch_checkpointing_on(model):
    if hasattr(model, "gradient_checkpointing_enable"):
        model.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        model.set_grad_checkpointing()


@guarantee
def rows_of_a_batch_use_their_own_adapters(method, subject, path):
    model = method.adapted(subject)
    method.add(model, subject, "second")
    x = images(3)
    expected = []
    for row, name in enumerate(["second", "default"]):
        model.set_adapter(name)
        expected.append(run(model.eval(), x[row : row + 1]))
    with model.disable_adapter():
        expected.append(run(model, x[2:]))
    mixed = run(model, x, adapter_names=["second", "default", "__base__"])
    rows = [run_rows(mixed, expected, row) for row in range(3)]
    for got, want in rows:
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def run_rows(mixed, expected, row):
    """One row of the outputs; a backbone's feature maps come flat, one after another."""
    if mixed.dim() > 1:
        return mixed[row : row + 1], expected[row]
    maps = [32 * 16 * 16 // 2, 32 * 8 * 8]  # channels and pixels of the two stages
    mine = torch.cat([part.reshape(3, -1)[row] for part in mixed.split([3 * size for size in maps])])
    return mine, expected[row]


@guarantee
def unknown_adapters_of_rows_are_refused(method, subject, path):
    model = method.adapted(subject)
    with pytest.raises(ValueError, match="adapter"):
        run(model, images(2), adapter_names=["default", "nobody"])
    with pytest.raises(ValueError, match="adapter_names"):
        run(model, images(2), adapter_names=["default"])


@guarantee
def loading_again_brings_the_new_weights(method, subject, path):
    model = method.adapted(subject)
    first = run(model, images())
    other = method.adapt(subject)
    method.fill(other, seed=12)
    other.save_pretrained(path)
    model.load_adapter(path, "default")
    assert same(run(model.eval(), images()), run(other, images()))
    assert not same(run(model, images()), first)


@guarantee
def loading_uses_little_memory(method, subject, path):
    model = method.adapted(subject)
    model.save_pretrained(path)
    loaded = PeftModel.from_pretrained(subject.build(), path, low_cpu_mem_usage=True).eval()
    loaded.load_adapter(path, "second", low_cpu_mem_usage=True)
    assert not any(p.is_meta for p in loaded.parameters())
    for name in ("default", "second"):
        loaded.set_adapter(name)
        assert same(run(loaded.eval(), images()), run(model, images()))
    empty = inject_adapter_in_model(method.make(subject), subject.build(), low_cpu_mem_usage=True)
    assert all(p.is_meta for n, p in empty.named_parameters() if method.owns(n))


@guarantee
def in_inference_mode_nothing_trains(method, subject, path):
    model = method.adapt(subject, inference_mode=True)
    assert not any(p.requires_grad for p in model.parameters())
    model.add_adapter("second", method.make(subject, other=True, inference_mode=True))
    assert not any(p.requires_grad for p in model.parameters())


@guarantee
def the_configuration_goes_round(method, subject, path):
    config = method.make(subject, exclude_modules=["nothing"])
    before = copy.deepcopy(asdict(config))
    model = get_peft_model(subject.build(), config)
    after = asdict(config)
    ignored = {"base_model_name_or_path", "peft_version", "inference_mode", "auto_mapping"}  # which PEFT fills in
    if method.own:
        assert all(after[key] == before[key] for key in before if key not in ignored)
    model.save_pretrained(path)
    read = PeftConfig.from_pretrained(path)
    assert type(read) is method.config
    assert all(asdict(read)[key] == after[key] for key in after if key not in ignored)


@guarantee
def an_auto_model_finds_the_base(method, subject, path):
    subject.build().save_pretrained(path / "base")
    base = type(subject.build()).from_pretrained(path / "base").eval()
    model = method.adapted(subject, base)
    model.save_pretrained(path / "adapter")
    loaded = AutoPeftModel.from_pretrained(path / "adapter").eval()
    assert same(run(loaded, images()), run(model, images()))


@guarantee
def blocks_are_chosen_by_index(method, subject, path):
    model = method.adapt(subject, layers_to_transform=[1])
    layers = [name for name, m in model.named_modules() if isinstance(m, BaseTunerLayer)]
    blocks = {re.match(r".*?\.(\d+)(?:\.blocks\.(\d+))?", name).groups() for name in layers}
    # PEFT's own methods count the stages of a Swin
    assert len(blocks) == 1 if method.own else {stage for stage, _ in blocks} == {"1"}
    if not method.own:
        return
    with pytest.raises(ValueError, match="layers_to_transform"):
        method.adapt(subject, layers_to_transform=[99])


@guarantee
def the_status_tells_what_is_active(method, subject, path):
    model = method.adapted(subject)
    method.add(model, subject, "second")
    status = model.get_model_status()
    assert (
        status.enabled and status.active_adapters == ["default"] and status.available_adapters == ["default", "second"]
    )
    assert status.num_adapter_layers == sum(
        isinstance(m, (BaseTunerLayer, AuxiliaryTrainingWrapper)) for m in model.modules()
    )
    assert status.trainable_params == model.get_nb_trainable_parameters()[0]


@guarantee
def it_is_mixed_with_lora(method, subject, path):
    model = get_peft_model(subject.build(), method.make(subject, modules_to_save=None), mixed=True).eval()
    method.prepare(model)
    method.fill(model)
    alone = run(model, images())
    model.add_adapter("lora", LoraConfig(r=4, target_modules=list(subject.targets), init_lora_weights=False))
    model.set_adapter(["default", "lora"])
    assert not torch.allclose(run(model.eval(), images()), alone)
    model.set_adapter("default")
    assert same(run(model.eval(), images()), alone)


@guarantee
def weights_are_swapped_in_place(method, subject, path):
    model = method.adapted(subject, modules_to_save=None)
    other = method.adapted(subject, seed=12, modules_to_save=None)
    method.fill(other, seed=12)
    other.save_pretrained(path)
    hotswap_adapter(model, str(path), "default")
    assert same(run(model, images()), run(other, images()))
