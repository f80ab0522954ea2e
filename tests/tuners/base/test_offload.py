"""accelerate's offloading, before and after an adapter is added: right, or refused."""

from __future__ import annotations

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model, init_empty_weights
from peft import PeftModel, get_peft_model

from tests.peft_conformance.methods import ALL, OWN
from tests.support.models import images
from tests.support.subjects import SUBJECTS, run

pytestmark = pytest.mark.filterwarnings("ignore")

SWIN = SUBJECTS["swin"]
METHODS = pytest.mark.parametrize("method", [method.name for method in OWN])
PARTS = {"embeddings": "cpu", "encoder": "disk", "layernorm": "cpu", "pooler": "cpu"}


def offload(model, how, folder):
    if how == "cpu":
        return cpu_offload(model, execution_device="cpu")
    if how == "disk":
        return disk_offload(model, folder, execution_device="cpu")
    prefix = "base_model.model." if isinstance(model, PeftModel) else ""
    places = {f"{prefix}swin.{name}": place for name, place in PARTS.items()} | {f"{prefix}classifier": "disk"}
    return dispatch_model(model, places, main_device="cpu", offload_dir=folder, force_hooks=True)


@METHODS
@pytest.mark.parametrize("how", ["cpu", "disk", "map"])
def test_an_adapted_model_is_offloaded(method, how, tmp_path):
    expected = run(ALL[method].adapted(SWIN), images())
    model = offload(ALL[method].adapted(SWIN), how, tmp_path)
    assert any(p.is_meta for p in model.parameters())
    torch.testing.assert_close(run(model, images()), expected)


@METHODS
@pytest.mark.parametrize("how", ["cpu", "disk", "map"])
def test_an_adapter_is_loaded_into_an_offloaded_model(method, how, tmp_path):
    model = ALL[method].adapted(SWIN, modules_to_save=["classifier"] if how == "map" else None)
    model.save_pretrained(tmp_path / "adapter")
    base = offload(SWIN.build(), how, tmp_path / "weights")
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter", offload_folder=tmp_path / "again").eval()
    torch.testing.assert_close(run(loaded, images()), run(model, images()))


@METHODS
def test_a_head_that_is_kept_elsewhere_is_refused(method):
    base = offload(SWIN.build(), "cpu", None)
    with pytest.raises(ValueError, match=r"'classifier' \(Linear\), whose weights accelerate keeps elsewhere"):
        ALL[method].adapt(SWIN, base)


@METHODS
def test_an_empty_model_gets_its_weights_between_two_adapters(method):
    with init_empty_weights():
        empty = SWIN.build()
    adapted = get_peft_model(empty, ALL[method].config(**ALL[method].options))
    full = ALL[method].adapted(SWIN, modules_to_save=None)
    adapted.load_state_dict(full.state_dict(), assign=True)
    adapted.add_adapter("second", ALL[method].config(**ALL[method].other))
    assert not any(p.is_meta for p in adapted.parameters())
