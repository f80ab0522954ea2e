"""Settings of all tests: no network, one thread a process, no global state left over."""

import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pytest_configure(config):
    torch.set_num_threads(1)


def pytest_collection_finish(session):
    """Leave what imports made out of every later collection of garbage; accelerate collects at each end of a run."""
    gc.collect()
    gc.freeze()
