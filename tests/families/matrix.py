"""The whole matrix of backbones."""

from .family import Family
from .transformers_models import FAMILIES as TRANSFORMERS

FAMILIES: tuple[Family, ...] = TRANSFORMERS
