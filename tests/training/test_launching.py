"""What accelerate launch leaves to the program."""

import pytest

from mona_peft.training.launching import check_launch


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
