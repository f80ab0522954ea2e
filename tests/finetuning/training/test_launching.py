"""What accelerate launch leaves to the program."""

from types import SimpleNamespace

import pytest
from torch import nn

from mona_peft.finetuning.commands.starting import with_launched
from mona_peft.finetuning.training import Trainer
from mona_peft.finetuning.training.launching import check_launch
from mona_peft.finetuning.training.sharding import check_sharding
from tests.finetuning.training.test_loop import config
from tests.finetuning.training.toy import LineTask


def test_a_single_process_instead_of_several_is_told(monkeypatch, recwarn):
    for name in ("MASTER_ADDR", "RANK", "PMI_RANK", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    check_launch("no", 1)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("RANK", "0")
    check_launch("no", 1)
    assert not recwarn.list
    monkeypatch.delenv("RANK")
    with pytest.warns(UserWarning, match=r"started one.*recipes/accelerate/cpu\.yaml"):
        check_launch("no", 1)


@pytest.mark.parametrize(
    "name, told, message",
    [
        ("MIXED_PRECISION", "bf16", "told mixed_precision bf16, and the run no.*--mixed_precision bf16"),
        ("GRADIENT_ACCUMULATION_STEPS", "4", "told gradient_accumulation_steps 4, and the run 1"),
        ("GRADIENT_ACCUMULATION_STEPS", "1", "told gradient_accumulation_steps 1, and the run 2"),
    ],
)
def test_what_the_launcher_was_told_otherwise_is_refused(monkeypatch, name, told, message):
    monkeypatch.setenv(f"ACCELERATE_{name}", told)
    with pytest.raises(ValueError, match=message):
        Trainer(LineTask(), config(gradient_accumulation_steps=2 if told == "1" else 1))


def test_a_precision_that_was_not_given_is_the_launchers(monkeypatch):
    assert with_launched(config(), ()).mixed_precision == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    launched = with_launched(config(), ())
    check_launch(launched.mixed_precision, 1)
    assert launched.mixed_precision == "bf16"
    assert with_launched(config(mixed_precision="fp16"), ("mixed_precision",)).mixed_precision == "fp16"


def test_sharding_that_would_lose_buffers_is_refused():
    efficient = SimpleNamespace(fsdp_version=2, cpu_ram_efficient_loading=True)
    with pytest.raises(ValueError, match="3 buffers to save, such as '0.num_batches_tracked'.*loading: false"):
        check_sharding(efficient, nn.Sequential(nn.BatchNorm1d(2)))
    check_sharding(efficient, nn.Sequential(nn.LayerNorm(2)))
    check_sharding(SimpleNamespace(fsdp_version=2, cpu_ram_efficient_loading=False), nn.BatchNorm1d(2))
    check_sharding(None, nn.BatchNorm1d(2))
