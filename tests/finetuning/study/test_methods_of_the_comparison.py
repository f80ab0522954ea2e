"""The methods other than `mona`, `full`, `fixed` and `lora`: what they train, and that what they save loads again."""

import pytest
import torch
from torch import nn
from transformers import ViTImageProcessor

from mona_peft.blocks.head import is_head
from mona_peft.finetuning.inference.loading import load
from mona_peft.finetuning.methods import METHODS, apply_method
from mona_peft.finetuning.repository import save_repository, weights_size
from tests.support.models import TINY_MODELS, images, predict

pytestmark = pytest.mark.filterwarnings("ignore")
CLASSIFIERS = ("swin-classifier", "vit-classifier")


def trained(model: nn.Module) -> set[str]:
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name for name in names if not is_head(name, ["classifier"])}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_bitfit_trains_biases_and_position_tables(name):
    names = trained(apply_method(TINY_MODELS[name].build(), "bitfit"))
    kinds = {part.rpartition(".")[2] for part in names}
    assert kinds == ({"bias", "relative_position_bias_table"} if "swin" in name else {"bias"})
    base = TINY_MODELS[name].build()
    biases = {n for n, _ in base.named_parameters() if n.endswith(".bias") and not n.startswith("classifier")}
    assert biases <= names


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_norm_trains_every_layer_norm_whole(name):
    model = apply_method(TINY_MODELS[name].build(), "norm")
    norms = [path for path, module in model.named_modules() if isinstance(module, nn.LayerNorm)]
    assert trained(model) == {f"{path}.{part}" for path in norms for part in ("weight", "bias")}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_partial_trains_the_last_block_whole(name):
    model = apply_method(TINY_MODELS[name].build(), "partial-1")
    names = trained(model)
    block = "layers.1.blocks.1." if "swin" in name else ".2."
    assert names == {n for n, _ in model.named_parameters() if block in n} and names
    two = trained(apply_method(TINY_MODELS[name].build(), "partial-1", blocks=2))
    assert len(two) == 2 * len(names)


def test_partial_names_the_wrong_number():
    with pytest.raises(ValueError, match="blocks=5 must be at least 1 and at most the 4"):
        apply_method(TINY_MODELS["swin-classifier"].build(), "partial-1", blocks=5)


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_method_saves_little_and_loads_identically(name, method, tmp_path):
    tiny = TINY_MODELS[name]
    base = tiny.build()
    # Another seed for everything that a method adds or trains.
    base.save_pretrained(tmp_path / "base")
    model = apply_method(type(base).from_pretrained(tmp_path / "base"), method)
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(0.05 * torch.randn_like(parameter))
    expected = predict(model.eval(), images())
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    save_repository(model, processor, tmp_path / "saved")
    size = sum(p.numel() for p in model.parameters() if p.requires_grad) * 4
    assert size <= weights_size(tmp_path / "saved") < size + 30_000  # names and shapes in the header
    loaded = load(tmp_path / "saved").model
    assert torch.equal(predict(loaded, images()), expected)
    assert not torch.allclose(predict(base, images()), expected)
