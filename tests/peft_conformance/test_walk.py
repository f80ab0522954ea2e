"""Random walks through the life cycle: short ones always, of 500 steps in the campaign."""

from __future__ import annotations

import pytest

from tests.support.subjects import SUBJECTS

from .methods import ALL, OWN
from .walk import Walk

pytestmark = pytest.mark.filterwarnings("ignore")

NAMES = [method.name for method in OWN]


@pytest.mark.parametrize("heads", [False, True], ids=["several", "heads"])
@pytest.mark.parametrize("method", [*NAMES, "lora"])
def test_short_walk(method, heads, tmp_path):
    Walk(ALL[method], SUBJECTS["vit"], heads, seed=NAMES.index(method) if method in NAMES else 99, path=tmp_path).go(
        12
    )


@pytest.mark.campaign
@pytest.mark.parametrize("method", [*NAMES, "lora"])
@pytest.mark.parametrize(
    ("subject", "heads", "steps"), [("swin", False, 500), ("timm-vit", True, 150)], ids=["swin", "timm"]
)
def test_long_walk(method, subject, heads, steps, tmp_path):
    Walk(ALL[method], SUBJECTS[subject], heads, seed=500, path=tmp_path).go(steps)
