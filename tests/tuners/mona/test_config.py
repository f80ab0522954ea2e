"""Choosing blocks, counting parameters, and the errors of wrong settings."""

import json
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import SwinConfig, SwinModel

from mona_peft import Mona, MonaConfig, MonaLayer, SSFConfig
from mona_peft.blocks.known import find_blocks
from tests.support.models import TINY_MODELS, images, predict, randomise

pytestmark = pytest.mark.filterwarnings("ignore")


def adapted_blocks(model):
    return [
        name.removeprefix("base_model.model.").removesuffix(".mona")
        for name, module in model.named_modules()
        if isinstance(module, MonaLayer)
    ]


BLOCKS = [f"swin.encoder.layers.{i}.blocks.{j}" for i in range(2) for j in range(2)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, BLOCKS),
        ({"layers_to_transform": 0}, BLOCKS[:1]),
        ({"layers_to_transform": [-1, 1]}, [BLOCKS[1], BLOCKS[3]]),
        ({"layers_to_transform": [2], "layers_pattern": "blocks"}, BLOCKS[2:3]),
        ({"target_modules": ["blocks.1"]}, [BLOCKS[1], BLOCKS[3]]),
        ({"target_modules": ["layers.1.blocks.0", "layers.0.blocks.0"]}, [BLOCKS[0], BLOCKS[2]]),
        ({"target_modules": r".*layers\.1\.blocks\.\d+"}, BLOCKS[2:]),
        ({"target_modules": r".*layers\.1\.blocks\.\d+", "layers_to_transform": [-1]}, BLOCKS[3:]),
        ({"target_modules": r".*layers\.1\.blocks\.\d+", "layers_to_transform": [2]}, BLOCKS[2:3]),
        ({"exclude_modules": ["layers.0.blocks.0"], "layers_to_transform": [1, -1]}, [BLOCKS[1], BLOCKS[3]]),
        ({"exclude_modules": ["layers.0.blocks.1"]}, [BLOCKS[0], *BLOCKS[2:]]),
        ({"exclude_modules": r".*layers\.0.*"}, BLOCKS[2:]),
    ],
)
def test_chooses_blocks(options, expected, tmp_path):
    tiny = TINY_MODELS["swin-classifier"]
    model = get_peft_model(tiny.build(), MonaConfig(**options))
    assert adapted_blocks(model) == expected
    assert sorted(model.base_model.targeted_module_names) == expected
    model.save_pretrained(tmp_path)
    assert adapted_blocks(PeftModel.from_pretrained(tiny.build(), tmp_path)) == expected


@pytest.mark.parametrize("positions", [("attention",), ("mlp",), "mlp", ["attention", "mlp"]])
def test_positions(positions):
    model = get_peft_model(TINY_MODELS["vit-model"].build(), MonaConfig(positions=positions))
    wanted = {positions} if isinstance(positions, str) else set(positions)
    for layer in (m for m in model.modules() if isinstance(m, MonaLayer)):
        assert {name for name in ("attention", "mlp") if len(getattr(layer, f"mona_{name}"))} == wanted
    randomise(model)
    assert not torch.allclose(predict(model.eval(), images()), predict(TINY_MODELS["vit-model"].build(), images()))


@pytest.mark.parametrize("variant", ["v1", "v2", "v3", "final"])
@pytest.mark.parametrize("scale", ["channel", "scalar"])
@pytest.mark.parametrize("kernel_sizes", [(3, 5, 7), (1,), (5, 3)])
def test_every_design_starts_as_the_base_and_trains(variant, scale, kernel_sizes):
    tiny = TINY_MODELS["vit-classifier"]
    config = MonaConfig(
        variant=variant, scale=scale, kernel_sizes=kernel_sizes, conv_bias=False, bottleneck_dim=4, mona_dropout=0.0
    )
    model = get_peft_model(tiny.build(), config).eval()
    assert torch.equal(predict(model, images()), predict(tiny.build(), images()))
    randomise(model)
    model(pixel_values=images()).logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for n, p in model.named_parameters() if "mona_" in n)


# --- initial weights ---------------------------------------------------------------------------------------------


def test_official_initial_weights():
    mona = Mona(256, init_weights="official")
    for linear in (mona.down, mona.up):
        assert not linear.bias.any()
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert torch.all(mona.norm.norm_scale == 1e-6) and torch.all(mona.norm.input_scale == 1)


def test_random_initial_weights_change_the_model():
    tiny = TINY_MODELS["vit-classifier"]
    model = get_peft_model(tiny.build(), MonaConfig(init_weights=False)).eval()
    assert not torch.allclose(predict(model, images()), predict(tiny.build(), images()))


# --- parameter counts ----------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(m=st.integers(1, 512), n=st.integers(1, 160))
def test_parameter_counts_of_one_adapter(m, n):
    count = lambda mona: sum(p.numel() for p in mona.parameters())  # noqa: E731
    with torch.device("meta"):
        official = Mona(m, n)
        paper = Mona(m, n, scale="scalar", conv_bias=False)
    assert count(official) == 2 * m * n + 5 * m + n**2 + 88 * n
    assert count(paper) == (2 * n + 3) * m + n**2 + 84 * n + 2


def test_parameter_count_of_swin_large():
    with torch.device("meta"):
        base = SwinModel(SwinConfig(embed_dim=192, depths=[2, 2, 18, 2], num_heads=[6, 12, 24, 48]), False)
    model = get_peft_model(base, MonaConfig())
    assert model.get_nb_trainable_parameters()[0] == 5_267_712


# --- errors: the value and the remedy, and nothing half done --------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bottleneck_dim": 0}, "bottleneck_dim=0 must be a whole number of at least 1"),
        ({"bottleneck_dim": 8.0}, "bottleneck_dim=8.0"),
        ({"kernel_sizes": (3, 4)}, r"kernel_sizes=\(3, 4\) must hold odd"),
        ({"kernel_sizes": ()}, r"kernel_sizes=\(\)"),
        ({"mona_dropout": 1.0}, "mona_dropout=1.0"),
        ({"variant": "v4"}, "variant='v4' is unknown; it must be one of"),
        ({"scale": "token"}, "scale='token' is unknown"),
        ({"positions": ("attention", "norm")}, r"positions=\('attention', 'norm'\) must be"),
        ({"positions": ()}, "positions="),
        ({"positions": ("mlp", "mlp")}, "each once"),
        ({"init_weights": "gaussian"}, "init_weights='gaussian' must be True or False or 'official'"),
        ({"conv_bias": "no"}, "conv_bias='no'"),
        ({"layers_pattern": "blocks"}, "layers_pattern='blocks' has no effect without layers_to_transform"),
    ],
)
def test_wrong_settings(options, message):
    with pytest.raises(ValueError, match=message):
        MonaConfig(**options)


def unchanged(model):
    return [(n, type(m), len(m._forward_pre_hooks), len(m._forward_hooks)) for n, m in model.named_modules()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": ["blocks.7"]}, "leaves no block to adapt.*The model's blocks are"),
        (
            {"target_modules": ["layernorm_after"]},
            r"matches 'swin.encoder.layers.0.blocks.0.layernorm_after' \(LayerNorm\), which is not a block",
        ),
        ({"layers_to_transform": [4]}, "must hold indices between -4 and 3"),
        ({"layers_to_transform": []}, "must hold indices"),
        ({"layers_to_transform": [-4, 1], "exclude_modules": ["layers.0.blocks.0"]}, r"means \{-4: 'swin.*left out"),
        ({"layers_to_transform": 0, "target_modules": ["blocks.1"]}, r"means \{0: 'swin.*left out"),
        ({"layers_to_transform": [0], "layers_pattern": "stages"}, "layers_pattern='stages' names no container"),
        ({"layers_to_transform": 0, "layers_pattern": ["blocks", "typo"]}, r"no container of blocks with \['typo'\]"),
        ({"exclude_modules": r".*"}, "leaves no block to adapt"),
    ],
)
def test_wrong_targets_leave_the_model_as_it_was(options, message):
    base = TINY_MODELS["swin-classifier"].build()
    before, flags = unchanged(base), [p.requires_grad for p in base.parameters()]
    with pytest.raises(ValueError, match=message):
        get_peft_model(base, MonaConfig(**options))
    assert unchanged(base) == before
    assert [p.requires_grad for p in base.parameters()] == flags
    model = get_peft_model(base, MonaConfig())
    with pytest.raises(ValueError, match=message):
        model.add_adapter("second", MonaConfig(**options))
    assert list(model.peft_config) == ["default"]
    assert not any("second" in key for key in model.state_dict())


@pytest.mark.parametrize(
    ("config", "excluded", "told"),
    [
        (MonaConfig, ["layer.0"], True),
        (MonaConfig, ["layers.0.mlp"], True),
        (MonaConfig, ["layers.0"], False),
        (SSFConfig, ["layer.0"], True),
        (SSFConfig, ["layers.0.mlp"], False),
    ],
)
def test_an_exclusion_without_effect_is_told(config, excluded, told):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        get_peft_model(
            TINY_MODELS["vit-classifier"].build(), config(exclude_modules=excluded, modules_to_save=["classifier"])
        )
    assert any(f"exclude_modules={excluded!r} leaves out nothing" in str(w.message) for w in caught) == told


def test_a_model_without_blocks():
    base = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    with pytest.raises(ValueError, match="Sequential has no block that can be adapted. The known blocks are"):
        get_peft_model(base, MonaConfig())
    assert not hasattr(base, "peft_config")


def first_block(model):
    """Name and module; releases of transformers call the list of blocks differently."""
    base = model.get_base_model()
    name = next(iter(find_blocks(base)))
    return name, base.get_submodule(name)


def test_a_grid_that_cannot_be_known():
    """Blocks torn out of their model have no patch embedding around them."""
    vit = TINY_MODELS["vit-model"].build()
    blocks = nn.ModuleList(vit.get_submodule(name) for name in find_blocks(vit))
    with pytest.raises(ValueError, match="No convolution that cuts the image into patches was found"):
        get_peft_model(blocks, MonaConfig())
    assert not any(hasattr(m, "_tap") for m in blocks.modules())


def test_a_block_run_without_its_patch_embedding():
    model = get_peft_model(TINY_MODELS["vit-model"].build(), MonaConfig()).eval()
    name, block = first_block(model)
    with pytest.raises(ValueError, match=f"token grid of block '{name}' .* is unknown"):
        block(torch.zeros(1, 65, 32))


def test_tokens_that_do_not_fit_the_grid():
    model = get_peft_model(TINY_MODELS["vit-model"].build(), MonaConfig()).eval()
    predict(model, images())
    with pytest.raises(ValueError, match="received 40 tokens, but a grid of 8 x 8 with 1 tokens before and 0 after"):
        first_block(model)[1](torch.zeros(1, 40, 32))


def test_an_entry_called_outside_its_block():
    model = get_peft_model(TINY_MODELS["vit-model"].build(), MonaConfig()).eval()
    name, block = first_block(model)
    with pytest.raises(RuntimeError, match=f"'layernorm_after' of the adapted block '{name}' was called outside"):
        block.layernorm_after(torch.zeros(1, 65, 32))


@pytest.mark.parametrize("existing", [False, True])
def test_a_file_whose_shapes_do_not_fit(existing, tmp_path):
    tiny = TINY_MODELS["swin-classifier"]
    get_peft_model(tiny.build(), MonaConfig(bottleneck_dim=8)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"bottleneck_dim": 16}))
    base = tiny.build()
    before = unchanged(base)
    if existing:
        model = get_peft_model(base, MonaConfig(bottleneck_dim=4)).eval()
        expected = predict(model, images())
        with pytest.raises(ValueError, match=r"(?s)do not fit the model.*has \(8,\), the model \(16,\).*and 83 more"):
            model.load_adapter(tmp_path, adapter_name="second")
        assert list(model.peft_config) == ["default"] and model.active_adapters == ["default"]
        assert not any("second" in key for key in model.state_dict())
        assert torch.equal(predict(model, images()), expected)
    else:
        expected = predict(base, images())
        with pytest.raises(ValueError, match="do not fit the model"):
            PeftModel.from_pretrained(base, tmp_path)
        assert unchanged(base) == before
        assert torch.equal(predict(base, images()), expected)


def test_a_file_with_missing_keys_is_told(tmp_path):
    tiny = TINY_MODELS["swin-classifier"]
    get_peft_model(tiny.build(), MonaConfig(bottleneck_dim=8)).save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    del tensors[next(key for key in tensors if key.endswith("up.weight"))]
    save_file(tensors, path)
    with pytest.warns(UserWarning, match=r"missing adapter keys.*up.weight"):
        PeftModel.from_pretrained(tiny.build(), tmp_path)
