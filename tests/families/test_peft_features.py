"""What PEFT offers besides a single adapter: batches of several adapters, other methods on the same model."""

import copy
from dataclasses import replace

import pytest
import torch
import transformers as tr
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)

from mona_peft import BlockSpec, MonaConfig
from mona_peft.blocks.tapped import TappedBlock
from tests.families.matrix import FAMILIES
from tests.families.test_families import same
from tests.support.models import TINY_MODELS, images, predict, randomise

pytestmark = pytest.mark.filterwarnings("ignore")

OPTIONS = {"bottleneck_dim": 4, "mona_dropout": 0.0}


# --- a batch with several adapters ---------------------------------------------------------------------------------


def two_adapters(tiny):
    """A model with two adapters, each with a head of its own, told apart by their weights."""
    model = get_peft_model(tiny.build(), MonaConfig(**OPTIONS, modules_to_save=tiny.modules_to_save), "first")
    model.add_adapter("second", MonaConfig(**OPTIONS, modules_to_save=tiny.modules_to_save))
    randomise(model, std=0.3)
    for number, name in enumerate(("first", "second")):
        randomise(model, marker=f"modules_to_save.{name}.", std=0.3, seed=number)
    return model.eval()


@pytest.mark.parametrize("name", ["swin-classifier", "vit-classifier"])
def test_rows_use_the_adapter_and_head_named_for_them(name):
    model = two_adapters(TINY_MODELS[name])
    x = images(4)
    expected = {}
    for adapter in ("first", "second"):
        model.set_adapter(adapter)
        expected[adapter] = predict(model, x)
    with model.disable_adapter():
        expected["__base__"] = predict(model, x)
    names = ["second", "__base__", "first", "second"]
    mixed = predict(model, x, adapter_names=names)
    for row, adapter in enumerate(names):
        torch.testing.assert_close(mixed[row], expected[adapter][row], rtol=0, atol=1e-5)
        assert not torch.allclose(mixed[row], expected["first" if adapter != "first" else "second"][row], atol=1e-3)
    model.set_adapter("first")
    assert torch.equal(predict(model, x), expected["first"])


@pytest.mark.parametrize("name", ["siglip2", "vit_mae", "vitdet"])
def test_rows_use_their_adapter_where_rows_have_layouts_of_their_own(name):
    family = next(f for f in FAMILIES if f.name == name)
    model = get_peft_model(family.model(), MonaConfig(**OPTIONS), "first")
    model.add_adapter("second", MonaConfig(**OPTIONS))
    randomise(model, std=0.3)
    model.eval()
    with torch.no_grad():
        model.set_adapter("second")
        second = family.call(model).last_hidden_state
        with model.disable_adapter():
            base = family.call(model).last_hidden_state
        mixed = family.call(model, adapter_names=["second", "__base__"]).last_hidden_state
    torch.testing.assert_close(mixed[0], second[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(mixed[1], base[1], rtol=0, atol=1e-5)
    assert not torch.allclose(second, base, atol=1e-3)


def test_wrong_adapter_names_are_refused():
    model = two_adapters(TINY_MODELS["vit-classifier"])
    with pytest.raises(ValueError, match=r"has \['third'\], but the adapters are \['first', 'second'\]"):
        predict(model, images(2), adapter_names=["first", "third"])
    with pytest.raises(ValueError, match="has 1 names for a batch of 2 rows"):
        predict(model, images(2), adapter_names=["first"])
    with pytest.raises(ValueError, match="adapter_names is for inference"):
        predict(model.train(), images(2), adapter_names=["first", "second"])
    model.eval()
    model.set_adapter("second")
    expected = predict(model.eval(), images(2))
    predict(model, images(2), adapter_names=["first", "first"])
    assert torch.equal(predict(model, images(2)), expected)  # the names of a call are gone with it


# --- together with LoRA --------------------------------------------------------------------------------------------


def lora_config(model):
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    return LoraConfig(
        r=2, target_modules=sorted(names & {"q_proj", "v_proj", "query", "value"}), init_lora_weights=False
    )


@pytest.mark.parametrize("name", ["swin-classifier", "vit-classifier"])
@pytest.mark.parametrize("lora_first", [True, False])
def test_mona_and_lora_on_one_model(name, lora_first):
    """Injected in turn, both act, both train, and each is saved alone."""
    base = TINY_MODELS[name].build().requires_grad_(False)
    reference = copy.deepcopy(base)
    steps = [("lora", lora_config(base)), ("own", MonaConfig(**OPTIONS))]
    for adapter, config in steps if lora_first else steps[::-1]:
        inject_adapter_in_model(config, base, adapter)
    for parameter_name, parameter in base.named_parameters():
        parameter.requires_grad_("lora_" in parameter_name or ".mona_" in parameter_name)
    x = images()
    only_lora = predict(base, x)  # Mona starts as the identity
    inject_adapter_in_model(lora_config(reference), reference, "lora")
    set_peft_model_state_dict(reference, get_peft_model_state_dict(base, adapter_name="lora"), "lora")
    torch.testing.assert_close(only_lora, predict(reference, x), rtol=0, atol=1e-6)
    randomise(base, std=0.3)
    assert not torch.allclose(predict(base, x), only_lora, atol=1e-3)
    base.train()
    base(pixel_values=x).logits.sum().backward()
    trained = {n for n, p in base.named_parameters() if p.grad is not None}
    assert {n for n in trained if "lora_" in n} and {n for n in trained if ".mona_" in n}
    assert all("lora_" in n or ".mona_" in n for n in trained)
    mona = get_peft_model_state_dict(base, adapter_name="own")
    assert mona and all(".mona_" in key and "lora" not in key for key in mona)
    fresh = copy.deepcopy(reference)
    inject_adapter_in_model(MonaConfig(**OPTIONS), fresh, "own")
    set_peft_model_state_dict(fresh, mona, "own")
    base.eval()
    torch.testing.assert_close(predict(fresh, x), predict(base, x), rtol=0, atol=1e-6)


# --- a user's own block --------------------------------------------------------------------------------------------


class OwnBlock(torch.nn.Module):
    """Attention left out: what matters is where the MLP begins."""

    def __init__(self, width):
        super().__init__()
        self.before = torch.nn.LayerNorm(width)
        self.mix = torch.nn.Linear(width, width)
        self.middle = torch.nn.LayerNorm(width)
        self.feed = torch.nn.Sequential(torch.nn.Linear(width, 8), torch.nn.GELU(), torch.nn.Linear(8, width))

    def forward(self, x):
        x = x + self.mix(self.before(x))
        return x + self.feed(self.middle(x))


class OwnModel(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.cut = torch.nn.Conv2d(3, 16, 8, 8)
        self.extra = torch.nn.Parameter(torch.randn(1, 3, 16))
        self.number_of_extra_tokens = 2
        self.layers = torch.nn.ModuleList([OwnBlock(16) for _ in range(2)])

    def forward(self, pixel_values):
        x = self.cut(pixel_values).flatten(2).mT
        extra = self.extra.expand(len(x), -1, -1)
        x = torch.cat([extra[:, :2], x, extra[:, 2:]], dim=1)
        for layer in self.layers:
            x = layer(x)
        return x


OWN = BlockSpec(OwnBlock, entry="middle", prefix_tokens=("number_of_extra_tokens",), suffix_tokens=1)


def own_model(seed=0):
    torch.manual_seed(seed)
    return OwnModel().eval()


def test_a_users_own_block_survives_saving(tmp_path):
    with pytest.raises(ValueError, match="OwnModel has no block that can be adapted"):
        get_peft_model(own_model(), MonaConfig())
    model = get_peft_model(own_model(), MonaConfig(**OPTIONS, block_specs=[OWN])).eval()
    randomise(model, std=0.3)
    layer = model.base_model.model.layers[0]
    assert isinstance(layer, TappedBlock) and layer._tap.spec == OWN
    model.save_pretrained(tmp_path)
    torch.manual_seed(9)
    loaded = PeftModel.from_pretrained(own_model(), tmp_path).eval()
    assert loaded.peft_config["default"].block_specs == [OWN]
    with torch.no_grad():
        for size in ((32, 32), (16, 48)):
            x = images(2, *size)
            assert torch.equal(model(x), loaded(x))
            assert not torch.allclose(model(x), own_model()(x), atol=1e-3)


def test_a_users_own_block_is_adapted_exactly():
    model = get_peft_model(own_model(), MonaConfig(**OPTIONS, block_specs=OWN)).eval().double()
    randomise(model, std=0.3)
    from tests.families.family import reference_mona

    own = model.base_model.model
    x = images(2, 16, 48).double()
    with torch.no_grad():
        expected = own.cut(x).flatten(2).mT
        extra = own.extra.expand(2, -1, -1)
        expected = torch.cat([extra[:, :2], expected, extra[:, 2:]], dim=1)
        for layer in own.layers:
            mona = layer.mona
            expected = expected + layer.mix(layer.before(expected))
            expected = torch.stack([reference_mona(mona.mona_attention["default"], r, (2, 6), 2, 1) for r in expected])
            y = expected + layer.feed(
                torch.nn.functional.layer_norm(expected, (16,), layer.middle.weight, layer.middle.bias)
            )
            expected = torch.stack([reference_mona(mona.mona_mlp["default"], r, (2, 6), 2, 1) for r in y])
        torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-10)


def test_a_users_layout_goes_before_the_known_one():
    spec = BlockSpec("ViTLayer", entry="layernorm_after", prefix_tokens=2)
    model = get_peft_model(TINY_MODELS["vit-model"].build(), MonaConfig(block_specs=[spec]))
    with pytest.raises(ValueError, match="with 2 tokens before"):
        predict(model, images())


@pytest.mark.parametrize(
    ("build", "first", "second"),
    [
        (TINY_MODELS["vit-model"].build, None, [BlockSpec("ViTLayer", "layernorm_after", prefix_tokens=2)]),
        (own_model, [OWN], None),
        (own_model, [OWN], [replace(OWN, prefix_tokens=(1, 1))]),
    ],
)
def test_the_adapters_of_a_block_have_one_layout(build, first, second):
    model = get_peft_model(build(), MonaConfig(**OPTIONS, block_specs=first))
    with pytest.raises(ValueError, match="has adapters by the layout BlockSpec.*Pass the block_specs of the adapter"):
        model.add_adapter("second", MonaConfig(**OPTIONS, block_specs=second))
    model.add_adapter("second", MonaConfig(**OPTIONS, block_specs=first and [replace(spec) for spec in first]))
    assert set(model.peft_config) == {"default", "second"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("ViTLayer", "must be a list of `BlockSpec`s"),
        ([{"entry": "norm2"}], "is no `BlockSpec`"),
        ([{"block": "B", "entry": "n", "colour": 1}], "is no `BlockSpec`"),
        ([{"block": "B"}], "needs the block's class"),
        ([{"block": "B", "entry": "n", "prefix_tokens": [-1]}], "must not be negative"),
        ([{"block": "B", "entry": "n", "suffix_tokens": [1.5]}], "must hold numbers and names"),
    ],
)
def test_wrong_block_specs_are_refused(value, message):
    with pytest.raises(ValueError, match=message):
        MonaConfig(block_specs=value)


def test_sources_that_a_users_block_lacks_are_refused():
    cases = {
        "nowhere": "has no forward argument \\['nowhere'\\]",
        "gone.shape": "comes from a module 'gone' outside it",
    }
    for grid, message in cases.items():
        model = own_model()
        before = {name: set(vars(module)) for name, module in model.named_modules()}
        with pytest.raises(ValueError, match=message):
            get_peft_model(model, MonaConfig(block_specs=[BlockSpec("OwnBlock", "middle", grid)]))
        assert {name: set(vars(module)) for name, module in model.named_modules()} == before


def test_a_model_with_a_linear_layer_before_its_patches():
    """A layer that cuts the patches elsewhere than in a convolution tells its grid as an argument."""
    torch.manual_seed(0)
    model = tr.Siglip2VisionModel(
        tr.Siglip2VisionConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            patch_size=8,
            num_patches=16,
        )
    ).eval()
    adapted = get_peft_model(copy.deepcopy(model.requires_grad_(False)), MonaConfig(**OPTIONS)).eval()
    call = {
        "pixel_values": torch.randn(2, 6, 192),
        "pixel_attention_mask": torch.ones(2, 6, dtype=torch.long),
        "spatial_shapes": torch.tensor([[2, 3], [2, 3]]),
    }
    with torch.no_grad():
        assert same(adapted(**call), model(**call))
        randomise(adapted)
        together = adapted(**call).last_hidden_state
        alone = [adapted(**{k: v[i : i + 1] for k, v in call.items()}).last_hidden_state for i in range(2)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)
