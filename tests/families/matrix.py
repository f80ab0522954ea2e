"""The whole matrix of backbones."""

from tests.families.convolutional_models import FAMILIES as CONVOLUTIONAL
from tests.families.family import Family
from tests.families.timm_models import FAMILIES as TIMM_AND_TORCHVISION
from tests.families.transformers_models import FAMILIES as TRANSFORMERS

FAMILIES: tuple[Family, ...] = TRANSFORMERS + TIMM_AND_TORCHVISION + CONVOLUTIONAL
