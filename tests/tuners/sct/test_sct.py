"""Maps of salient channels stand where the authors have them, and the channels are those of the authors' score."""

import pytest
import torch
from peft import PeftModel, get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file, save_file

from mona_peft import BottleneckConfig, MonaConfig, SCTConfig, select_salient_channels
from mona_peft.tuners.sct import ChannelMap, SCTLayer
from tests.support.models import TINY_MODELS, images, predict, randomise
from tests.tuners.mona.test_transformers import through_transformers
from tests.tuners.plain_blocks import run_swin, run_vit

pytestmark = pytest.mark.filterwarnings("ignore")

RUNNERS = {"swin-model": run_swin, "vit-model": run_vit}
BOTH = ("attention", "mlp")
LABELS = torch.tensor([0, 7, 7, 0, 3, 7])


def some_batches(size=6):
    return [({"pixel_values": x}, y) for x, y in zip(images(6, seed=5).split(size), LABELS.split(size), strict=True)]


def adapt(name, **options):
    model = get_peft_model(TINY_MODELS[name].build(), SCTConfig(**{"num_channels": 5} | options)).eval()
    randomise(model, ".sct_")
    return model


def layers(model):
    return [module for module in model.modules() if isinstance(module, SCTLayer)]


def channels(model, adapter="default"):
    return [(place, m.channels.tolist()) for layer in layers(model) for place, m in layer.maps(adapter).items()]


def count_hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("name", list(RUNNERS))
@pytest.mark.parametrize("positions", [("attention",), ("mlp",), BOTH], ids="-".join)
def test_channels_of_the_stream_are_mapped(name, positions):
    model = adapt(name, positions=positions, sct_scale=0.5)
    select_salient_channels(model, some_batches())
    model = model.double()

    def mapped(block, position, x):
        if position not in positions:
            return x
        (found,) = [m for place, m in block.sct.maps("default").items() if place == position]
        result = x.clone()
        for i, to in enumerate(found.channels.tolist()):
            for j, of in enumerate(found.channels.tolist()):
                result[..., to] += 0.5 * found.linear.weight[i, j] * x[..., of]
            result[..., to] += 0.5 * found.linear.bias[i]
        return result

    expected = RUNNERS[name](
        model.base_model.model,
        images().double(),
        mlp_output=lambda block, h, x1: h,
        after_attention=lambda block, x1: mapped(block, "attention", x1),
        after_mlp=lambda block, x: mapped(block, "mlp", x),
    )
    torch.testing.assert_close(predict(model, images().double()), expected, rtol=1e-12, atol=1e-12)
    used = {place for place, _ in channels(model)}
    assert used == set(positions) and len(channels(model)) == len(positions) * TINY_MODELS[name].blocks


def authors_scores(name):
    """By block and position: the norms by class and channel over images and patch tokens, then their mean."""
    model, seen = TINY_MODELS[name].build(), []
    blocks = [m for m in model.modules() if type(m).__name__ in ("SwinLayer", "ViTLayer")]
    for block in blocks:
        block.layernorm_after.register_forward_hook(lambda m, args, out: seen.append(args[0]))
        block.register_forward_hook(lambda m, args, out: seen.append(out[0] if isinstance(out, tuple) else out))
    predict(model, images(6, seed=5))
    assert len(seen) == 2 * len(blocks)
    scores = []
    for features in seen:
        patches = features[:, 1:] if "vit" in name else features
        by_class = [patches[LABELS == label].double().norm(2, dim=(0, 1)) for label in LABELS.unique()]
        scores.append(torch.stack(by_class).mean(0))
    return scores


@pytest.mark.parametrize("name", ["swin-model", "vit-model", "swin-classifier"])
@pytest.mark.parametrize("size", [6, 2])
def test_the_channels_are_those_of_the_greatest_score(name, size):
    model = adapt(name, positions=BOTH, modules_to_save=TINY_MODELS[name].modules_to_save)
    before = channels(model)
    assert {tuple(found) for _, found in before} == {(-1,) * 5}
    select_salient_channels(model, some_batches(size))
    expected = [sorted(score.topk(5).indices.tolist()) for score in authors_scores(name)]
    assert [found for _, found in channels(model)] == expected
    assert [place for place, _ in channels(model)] == list(BOTH) * TINY_MODELS[name].blocks
    assert len({tuple(found) for found in expected}) > 1  # blocks differ, so that mixing them up would show


def test_the_class_of_an_image_matters():
    """Few images of a class count as much as many of another."""
    model, once = adapt("vit-model"), adapt("vit-model")
    select_salient_channels(model, some_batches())
    select_salient_channels(once, [(inputs, torch.zeros_like(labels)) for inputs, labels in some_batches()])
    assert channels(model) != channels(once)


def test_selection_leaves_the_model_and_its_gradients_alone():
    model = adapt("vit-classifier", modules_to_save=["classifier"])
    model.train()
    model.base_model.model.classifier.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    hooks = count_hooks(model)
    parameters = {name: parameter.clone() for name, parameter in model.named_parameters()}
    select_salient_channels(model, [(images(6, seed=5), LABELS)])  # images alone will do
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trained
    assert count_hooks(model) == hooks
    assert all(torch.equal(parameter, parameters[name]) for name, parameter in model.named_parameters())


def test_adapters_on_the_stream_do_not_change_the_selection():
    expected = adapt("vit-model")
    select_salient_channels(expected, some_batches())
    model = adapt("vit-model", sct_scale=50.0)
    inject_adapter_in_model(MonaConfig(bottleneck_dim=4), model.base_model.model)
    randomise(model, ".mona_", std=3.0)
    select_salient_channels(model, some_batches())
    assert channels(model) == channels(expected)


def test_adapters_have_channels_of_their_own():
    model = adapt("vit-model")
    select_salient_channels(model, some_batches())
    first = channels(model)
    model.add_adapter("other", SCTConfig(num_channels=3, positions="mlp"))
    select_salient_channels(model, [(images(2, seed=8) * 5, torch.tensor([0, 1]))], adapter_name="other")
    assert channels(model) == first
    assert all(place == "mlp" and len(found) == 3 for place, found in channels(model, "other"))


def test_rows_of_a_batch_use_the_adapter_named_for_them():
    model = adapt("vit-model")
    model.add_adapter("other", SCTConfig(num_channels=3, positions="mlp"))
    randomise(model, ".other.", seed=5)
    select_salient_channels(model, some_batches())
    select_salient_channels(model, some_batches(), adapter_name="other")
    x = images(3)
    with torch.no_grad():
        output = model.eval()(pixel_values=x, adapter_names=["other", "__base__", "default"]).last_hidden_state
    for row, name in ((0, "other"), (2, "default")):
        model.set_adapter(name)
        alone = predict(model.eval(), x[row : row + 1])
        torch.testing.assert_close(output[row : row + 1], alone, rtol=1e-5, atol=1e-5)
    with model.disable_adapter():
        base = predict(model, x)
    torch.testing.assert_close(output[1], base[1], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(output[0], base[0]) and not torch.allclose(output[2], base[2])


def test_checkpoints_hold_the_channels(tmp_path):
    model = adapt("swin-model", positions=BOTH)
    select_salient_channels(model, some_batches())
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(key.endswith(".channels") for key in saved) == 8
    expected = predict(model, images())
    for options in ({}, {"low_cpu_mem_usage": True}, {"adapter_name": "other", "is_trainable": True}):
        loaded = PeftModel.from_pretrained(TINY_MODELS["swin-model"].build(), tmp_path, **options).eval()
        assert channels(loaded, options.get("adapter_name", "default")) == channels(model)
        torch.testing.assert_close(predict(loaded, images()), expected, rtol=1e-6, atol=1e-6)
        predict(loaded.train(), images())  # its channels are selected


@through_transformers
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_transformers_loads_the_channels(compiled, low_cpu_mem_usage, tmp_path):
    model = adapt("vit-model", positions=BOTH)
    select_salient_channels(model, some_batches())
    model.save_pretrained(tmp_path)
    loaded = TINY_MODELS["vit-model"].build()
    loaded.load_adapter(str(tmp_path), low_cpu_mem_usage=low_cpu_mem_usage)
    if compiled:
        loaded.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(predict(loaded.eval(), images()), predict(model, images()), rtol=1e-6, atol=1e-6)
    assert channels(loaded) == channels(model)


def test_it_does_not_run_before_its_channels_are_selected(tmp_path):
    model = adapt("vit-model")
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(TINY_MODELS["vit-model"].build(), tmp_path, is_trainable=True)
    lean = PeftModel.from_pretrained(TINY_MODELS["vit-model"].build(), tmp_path, low_cpu_mem_usage=True)
    for unselected in (model, loaded, lean):
        for training in (False, True):
            with pytest.raises(RuntimeError, match=r"have not been selected. Call `mona_peft.select_salient_channels"):
                predict(unselected.train(training), images())
        with unselected.disable_adapter():
            predict(unselected.eval(), images())
        select_salient_channels(unselected, some_batches())
        predict(unselected.train(), images())
    predict(adapt("vit-model", num_channels=32).train(), images())  # all there are


@pytest.mark.parametrize("trained", [False, True])
def test_a_file_of_before_with_the_first_channels_was_saved_unselected_unless_it_was_trained(tmp_path, trained):
    model = adapt("vit-model")
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "adapter_model.safetensors")
    for key, tensor in state.items():
        if key.endswith(".channels"):
            state[key] = torch.arange(len(tensor))
        else:
            state[key] = torch.full_like(tensor, float(trained))
    save_file(state, tmp_path / "adapter_model.safetensors")
    loaded = PeftModel.from_pretrained(TINY_MODELS["vit-model"].build(), tmp_path).eval()
    if trained:
        assert not torch.equal(predict(loaded, images()), predict(TINY_MODELS["vit-model"].build(), images()))
    else:
        with pytest.raises(RuntimeError, match="have not been selected"):
            predict(loaded, images())


def test_it_starts_at_zero_or_as_the_authors_do():
    x, fresh = torch.randn(2, 3, 200), ChannelMap(200)
    fresh.select(torch.rand(200))
    assert not fresh.delta(x).any()
    authors = ChannelMap(200, init_weights=False)
    assert authors.linear.weight.shape == (96, 96) and not authors.linear.bias.any()
    assert authors.linear.weight.std().item() == pytest.approx(0.02, rel=0.05) and authors.scale == 0.15
    assert ChannelMap(40).linear.weight.shape == (40, 40)


def test_equal_scores_take_the_first_channels():
    found = ChannelMap(6, 3)
    found.select(torch.tensor([1.0, 5.0, 1.0, 1.0, 7.0, 1.0]))
    assert found.channels.tolist() == [0, 1, 4]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((images(2), torch.zeros(2)), r"labels are torch.float32 of shape \(2,\)"),
        ((images(2), torch.zeros(2, 4, dtype=torch.long)), r"labels are torch.int64 of shape \(2, 4\)"),
        ((images(2), [0, 1]), r"labels are \[0, 1\]"),
        ((images(2), torch.zeros(3, dtype=torch.long)), "3 labels for 2 images"),
    ],
)
def test_wrong_labels_are_refused(batch, message):
    model = adapt("vit-model")
    before = count_hooks(model), channels(model)
    with pytest.raises(ValueError, match=message):
        select_salient_channels(model.train(), [batch])
    assert (count_hooks(model), channels(model)) == before and model.training


def test_without_an_adapter_or_batches_nothing_is_selected():
    with pytest.raises(ValueError, match=r"no SCT adapter 'other'; it has \['default'\]"):
        select_salient_channels(adapt("vit-model"), some_batches(), adapter_name="other")
    with pytest.raises(ValueError, match=r"no SCT adapter 'default'; it has \[\]"):
        select_salient_channels(get_peft_model(TINY_MODELS["vit-model"].build(), BottleneckConfig()), some_batches())
    with pytest.raises(ValueError, match="no batches to select the channels from"):
        select_salient_channels(adapt("vit-model"), [])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_channels": 0}, "num_channels=0"),
        ({"sct_scale": "0.1"}, "sct_scale='0.1'"),
        ({"positions": ()}, "positions="),
        ({"init_weights": "official"}, "init_weights='official'"),
    ],
)
def test_bad_settings_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        SCTConfig(**values)


def test_models_without_known_blocks_are_refused():
    with pytest.raises(ValueError, match="no block that can be adapted"):
        get_peft_model(torch.nn.Sequential(torch.nn.Linear(4, 4)), SCTConfig())
