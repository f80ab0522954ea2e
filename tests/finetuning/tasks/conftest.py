"""Backbones that the dense tests of this folder share."""

import pytest

from tests.finetuning.tasks.tiny_dense import write_swin, write_vit


@pytest.fixture(scope="module")
def swin(tmp_path_factory):
    return write_swin(tmp_path_factory.mktemp("swin"))


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return write_vit(tmp_path_factory.mktemp("vit"))
