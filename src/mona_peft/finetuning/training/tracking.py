"""Which experiment trackers a run reports to."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

TRACKERS = ("tensorboard", "wandb", "trackio")


def resolve_trackers(wanted: Sequence[str]) -> list[str]:
    """Names of trackers for accelerate.

    Args:
        wanted (`Sequence[str]`): Names, `none`, or `auto`: TensorBoard where it is installed.

    Raises:
        ValueError: If a name is unknown.
        ImportError: If a tracker is not installed.
    """
    if list(wanted) == ["none"]:
        return []
    if list(wanted) == ["auto"]:
        return ["tensorboard"] if find_spec("tensorboard") else []
    for name in wanted:
        if name not in TRACKERS:
            raise ValueError(f"Unknown tracker {name!r}; report_to is auto, none, or some of {', '.join(TRACKERS)}.")
        if find_spec(name) is None:
            raise ImportError(f"report_to names {name}, which is not installed: pip install {name}")
    return list(wanted)
