"""In models made of several parts the blocks of the backbone are adapted, and no others."""

import copy

import pytest
import torch
from peft import get_peft_model

from mona_peft import MonaConfig
from mona_peft.blocks.tapped import TappedBlock
from tests.families.composites import COMPOSITES
from tests.families.family import loss
from tests.families.test_families import same
from tests.support.models import randomise

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(params=COMPOSITES, ids=lambda composite: composite.name)
def composite(request):
    return request.param


def test_only_the_backbone_is_adapted(composite):
    torch.manual_seed(0)
    base = composite.build().eval().requires_grad_(False)
    inputs = composite.inputs()
    with torch.no_grad():
        torch.manual_seed(1)
        base(**inputs)
        torch.manual_seed(1)
        expected = base(**inputs)
    model = get_peft_model(copy.deepcopy(base), MonaConfig(bottleneck_dim=4, mona_dropout=0.0)).eval()
    names = [n for n, m in model.base_model.model.named_modules() if isinstance(m, TappedBlock)]
    assert len(names) == composite.blocks
    assert all(name.startswith(composite.inside) for name in names)
    with torch.no_grad():
        torch.manual_seed(1)
        assert same(model(**inputs), expected)
        randomise(model)
        torch.manual_seed(1)
        assert not same(model(**inputs), expected)
    loss(model(**inputs)).backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert reached == {name for name, _ in model.named_parameters() if ".mona_" in name}
