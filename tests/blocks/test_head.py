"""The one rule of what the head is, and what is counted by it."""

import pytest
import timm.models as tm
import torchvision.models as tv
import transformers as tr
from peft import get_peft_model
from torch import nn

from mona_peft import MonaConfig, summary
from mona_peft.blocks.head import find_head
from tests.families.composites import COMPOSITES
from tests.families.family import tapped_blocks
from tests.families.timm_models import PLAIN as TIMM
from tests.families.timm_models import SWIN as TIMM_SWIN
from tests.families.transformers_models import PLAIN, SWIN

pytestmark = pytest.mark.filterwarnings("ignore")


def timm_in_transformers():
    config = tr.TimmWrapperConfig(architecture="vit_tiny_patch16_224", num_labels=3, model_args={"depth": 1})
    return tr.TimmWrapperForImageClassification(config)


CLASSIFIERS = {
    "vit": (lambda: tr.ViTForImageClassification(tr.ViTConfig(**PLAIN)), ("classifier",)),
    "deit": (
        lambda: tr.DeiTForImageClassificationWithTeacher(tr.DeiTConfig(**PLAIN)),
        ("cls_classifier", "distillation_classifier"),
    ),
    "clip": (lambda: tr.CLIPForImageClassification(tr.CLIPConfig(vision_config=dict(PLAIN))), ("classifier",)),
    "timm vit": (lambda: tm.VisionTransformer(**TIMM), ("head",)),
    "timm vit without a head": (lambda: tm.VisionTransformer(**TIMM | {"num_classes": 0}), ()),
    "timm swin": (lambda: tm.SwinTransformer(**TIMM_SWIN), ("head",)),
    "timm deit": (lambda: tm.deit.VisionTransformerDistilled(**TIMM), ("head", "head_dist")),
    "timm in transformers": (timm_in_transformers, ("timm_model.head",)),
    "torchvision vit": (lambda: tv.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=3), ("heads",)),
    "torchvision swin": (lambda: tv.SwinTransformer([2, 2], 8, [1, 1], [1, 2], [4, 4], num_classes=3), ("head",)),
    "a backbone": (lambda: tr.SwinBackbone(tr.SwinConfig(**SWIN)), ()),
    "a model without a head": (lambda: tr.ViTModel(tr.ViTConfig(**PLAIN)), None),
    "no convention": (lambda: nn.Sequential(nn.Linear(1, 1)), None),
}


@pytest.mark.parametrize("name", list(CLASSIFIERS))
def test_the_head_of_classifiers(name):
    build, head = CLASSIFIERS[name]
    assert find_head(build()) == head


@pytest.mark.parametrize("composite", [c for c in COMPOSITES if c.heads], ids=lambda composite: composite.name)
def test_what_mona_adds_is_what_trains_in_the_backbone(composite):
    model = composite.build()
    before = sum(p.numel() for p in model.parameters())
    head = find_head(model)
    for name, _ in model.named_parameters():
        inside = name.startswith(composite.inside)
        outside = any(f"{name}.".startswith(f"{path}.") for path in head or ())
        assert not (inside and outside) and (head is None or inside or outside), name
    counts = summary(model)
    assert counts.backbone.total + counts.head.total == before and counts.idle.total == 0
    adapted = get_peft_model(model, MonaConfig(bottleneck_dim=4))
    counts = summary(adapted)
    added = counts.total - before
    assert added == sum(p.numel() for block in tapped_blocks(adapted) for p in block.mona.parameters())
    assert counts.backbone.trainable == counts.adapters.trainable == added > 0
    assert counts.head.trainable == 0


def test_a_saved_part_of_the_backbone_is_no_head():
    model = tr.ViTForImageClassification(tr.ViTConfig(**PLAIN, num_labels=3))
    norm, head = (sum(p.numel() for p in m.parameters()) for m in (model.vit.layernorm, model.classifier))
    adapted = get_peft_model(model, MonaConfig(bottleneck_dim=4, modules_to_save=["vit.layernorm", "classifier"]))
    counts = summary(adapted)
    assert counts.head.trainable == counts.head.total == head
    assert counts.base.trainable == norm
    assert counts.idle.total == norm + head and counts.idle.trainable == 0
    assert (counts.trainable, counts.total) == adapted.get_nb_trainable_parameters()
