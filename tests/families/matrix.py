"""The whole matrix of backbones."""

from .family import Family
from .timm_models import FAMILIES as TIMM_AND_TORCHVISION
from .transformers_models import FAMILIES as TRANSFORMERS

FAMILIES: tuple[Family, ...] = TRANSFORMERS + TIMM_AND_TORCHVISION
