"""What accelerate launch leaves to the program."""

from types import SimpleNamespace

import pytest
from torch import nn

from mona_peft.finetuning.training.launching import check_launch
from mona_peft.finetuning.training.sharding import check_sharding


def test_a_single_process_instead_of_several_is_told(monkeypatch, recwarn):
    for name in ("MASTER_ADDR", "RANK", "PMI_RANK", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    check_launch()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("RANK", "0")
    check_launch()
    assert not recwarn.list
    monkeypatch.delenv("RANK")
    with pytest.warns(UserWarning, match=r"started one.*recipes/accelerate/cpu\.yaml"):
        check_launch()


def test_sharding_that_would_lose_buffers_is_refused():
    efficient = SimpleNamespace(fsdp_version=2, cpu_ram_efficient_loading=True)
    with pytest.raises(ValueError, match="3 buffers to save, such as '0.num_batches_tracked'.*loading: false"):
        check_sharding(efficient, nn.Sequential(nn.BatchNorm1d(2)))
    check_sharding(efficient, nn.Sequential(nn.LayerNorm(2)))
    check_sharding(SimpleNamespace(fsdp_version=2, cpu_ram_efficient_loading=False), nn.BatchNorm1d(2))
    check_sharding(None, nn.BatchNorm1d(2))
