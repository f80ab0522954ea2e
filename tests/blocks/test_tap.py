"""Adapted blocks in the hands of other libraries: copies by PEFT, hooks by accelerate, torch.fx, torch.compile."""

import copy
import io

import pytest
import torch
import torchvision.models as tv
import transformers as tr
from accelerate import cpu_offload
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from peft import PeftModel, get_peft_model, inject_adapter_in_model
from torchvision.models.feature_extraction import create_feature_extractor

from mona_peft import AdaptFormerConfig, ConvpassConfig, MonaConfig
from mona_peft.blocks.recorders import recorders_of
from mona_peft.blocks.source import LayoutSource
from mona_peft.blocks.tapped import TappedBlock
from tests.families.family import tapped_blocks
from tests.families.transformers_models import PLAIN
from tests.support.models import TINY_MODELS, images, predict, randomise

pytestmark = pytest.mark.filterwarnings("ignore")

CONFIGS = {
    "mona": lambda **options: MonaConfig(bottleneck_dim=4, mona_dropout=0.0, **options),
    "convpass": lambda **options: ConvpassConfig(convpass_dropout=0.0, **options),
    "adaptformer": lambda **options: AdaptFormerConfig(bottleneck_dim=4, **options),
}


def vit():
    torch.manual_seed(0)
    return tr.ViTForImageClassification(tr.ViTConfig(**PLAIN, num_labels=3)).eval()


def adapted(base, method="mona", **options):
    torch.manual_seed(1)
    model = get_peft_model(base, CONFIGS[method](**options)).eval()
    randomise(model, marker=f".{method}_", std=0.3)
    return model


def hooks_of(model):
    return [hook for m in model.modules() for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]


# --- copies that PEFT makes of modules ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", list(CONFIGS))
@pytest.mark.parametrize("saved", ["projection", "layernorm_after"])
def test_copies_of_watched_modules(method, saved, tmp_path):
    """The copy that `modules_to_save` makes tells the grid, or lets the adapters act, as the original did."""
    base = vit()
    x = images(2)
    expected = predict(adapted(copy.deepcopy(base), method), x)
    model = adapted(base, method, modules_to_save=[saved])
    assert torch.equal(predict(model, x), expected)
    with model.disable_adapter():
        before = predict(model, x)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(vit(), tmp_path).eval()
    assert torch.equal(predict(loaded, x), expected)
    number, size = len(list(model.modules())), saved_size(model)
    copied = copy.deepcopy(model)
    assert len(list(copied.modules())) == number and saved_size(copied) == pytest.approx(size, rel=0.01)
    assert torch.equal(predict(copied, x), expected)
    unloaded = model.unload()
    assert not hooks_of(unloaded) and not tapped_blocks(unloaded)
    assert torch.equal(predict(unloaded, x), before)
    assert torch.equal(predict(adapted(unloaded, method), x), expected)
    assert torch.equal(predict(copied, x), expected)


@pytest.mark.parametrize("saved", ["embeddings", "patch_embeddings"])
def test_a_copied_embedding_tells_the_grid(saved):
    x = images(2)
    expected = predict(adapted(vit()), x)
    assert torch.equal(predict(adapted(vit(), modules_to_save=[saved]), x), expected)


def saved_size(model):
    file = io.BytesIO()
    torch.save(model, file)
    return file.tell()


def test_a_copied_module_brings_no_block_along():
    model = adapted(vit(), modules_to_save=["layernorm_after"])
    for block in tapped_blocks(model):
        own = {id(module) for module in block.modules()}
        for module in block.modules():
            for hook in module._forward_pre_hooks.values():
                reached = getattr(hook, "block", None)
                assert reached is None or id(reached) in own


def test_modules_that_were_copied_before():
    """Mona comes to a model whose patch embedding and MLP norms PEFT keeps copies of already."""
    x = images(2)
    expected = predict(adapted(vit()), x)
    model = vit()
    first = get_peft_model(model, CONFIGS["adaptformer"](modules_to_save=["projection", "layernorm_after"]), "first")
    inner = first.base_model.model
    torch.manual_seed(1)
    inject_adapter_in_model(CONFIGS["mona"](), inner, "default")
    randomise(first, marker=".mona_", std=0.3)
    assert torch.equal(predict(first.eval(), x), expected)
    assert any(True for module in inner.modules() for _ in recorders_of(module))


# --- accelerate -----------------------------------------------------------------------------------------------------


class Count(ModelHook):
    """Counts the calls of a module, and changes nothing."""

    def __init__(self):
        self.calls = 0

    def pre_forward(self, module, *args, **kwargs):
        self.calls += 1
        return args, kwargs


@pytest.mark.parametrize("name", ["swin-classifier", "vit-classifier"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_hooks_of_accelerate_on_blocks(name, when):
    x = images(2)
    base = TINY_MODELS[name].build().eval()
    expected = predict(adapted(copy.deepcopy(base)), x)
    plain = predict(base, x)
    blocks = [
        base.get_submodule(n)
        for n, m in adapted(copy.deepcopy(base)).base_model.model.named_modules()
        if isinstance(m, TappedBlock)
    ]
    counts = [Count() for _ in blocks]

    def hook():
        for block, count in zip(blocks, counts, strict=True):
            add_hook_to_module(block, count)

    if when == "before":
        hook()
    model = adapted(base)
    if when == "after":
        hook()
    assert torch.equal(predict(model, x), expected)
    assert {count.calls for count in counts} == {1}
    copied = copy.deepcopy(model)
    assert torch.equal(predict(copied, x), expected)
    unloaded = model.unload()
    assert torch.equal(predict(unloaded, x), plain)
    assert {count.calls for count in counts} == {2}
    for block in blocks:
        remove_hook_from_module(block)
    assert torch.equal(predict(unloaded, x), plain)
    assert torch.equal(predict(adapted(unloaded), x), expected)


@pytest.mark.parametrize("when", ["before", "after"])
def test_offloading(when):
    x, method = images(2), "adaptformer"
    expected = predict(adapted(vit(), method), x)
    base = vit()
    if when == "before":
        cpu_offload(base)
    model = adapted(base, method)
    if when == "after":
        cpu_offload(base)
    assert torch.equal(predict(model, x), expected)


# --- torch.fx -------------------------------------------------------------------------------------------------------


FX = {
    "vit": (lambda: tv.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3), "encoder.layers.encoder_layer_1"),
    "swin": (lambda: tv.SwinTransformer([2, 2], 8, [2, 2], [1, 2], [4, 4], num_classes=3), "features.3"),
    "swin v2": (
        lambda: tv.SwinTransformer(
            [2, 2],
            8,
            [2, 2],
            [1, 2],
            [4, 4],
            num_classes=3,
            block=tv.swin_transformer.SwinTransformerBlockV2,
            downsample_layer=tv.swin_transformer.PatchMergingV2,
        ),
        "features.3",
    ),
}


@pytest.mark.parametrize("name", list(FX))
def test_feature_extractors_of_torchvision(name):
    build, node = FX[name]
    torch.manual_seed(0)
    model = build().eval()
    inject_adapter_in_model(CONFIGS["mona"](), model)
    randomise(model, marker=".mona_", std=0.3)
    seen = []
    model.get_submodule(node).register_forward_hook(lambda module, args, output: seen.append(output))
    sizes = [(32, 32)] if name == "vit" else [(32, 32), (32, 64)]
    extractor = create_feature_extractor(model, [node]).eval()
    with torch.no_grad():
        for size in sizes:
            x = torch.randn(2, 3, *size)
            model(x)
            assert torch.equal(extractor(x)[node], seen[-1])
        seen.clear()
        copied = copy.deepcopy(extractor).eval()
        assert torch.equal(copied(x)[node], extractor(x)[node])


# --- torch.compile --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["swin-classifier", "vit-classifier"])
def test_compiled_models_do_not_take_names_for_rows(name):
    model = adapted(TINY_MODELS[name].build())
    model.add_adapter("second", CONFIGS["mona"]())
    randomise(model.eval(), marker=".second.", std=0.3, seed=1)
    x = images(2)
    names = ["second", "__base__"]
    mixed = predict(model, x, adapter_names=names)
    compiled = torch.compile(model, backend="eager")
    before = predict(compiled, x)
    with pytest.raises(RuntimeError, match="adapter_names.*compiled"):
        predict(compiled, x, adapter_names=names)
    assert torch.equal(predict(compiled, x), before)
    assert torch.equal(predict(model, x, adapter_names=names), mixed)


def test_each_block_is_looked_at_once(monkeypatch):
    found = []
    find_modules = LayoutSource._find_modules
    monkeypatch.setattr(
        LayoutSource, "_find_modules", lambda self, *args: (found.append(self.name), find_modules(self, *args))
    )
    model = adapted(vit())
    assert len(found) == len(set(found)) == len(tapped_blocks(model))
