"""Regular expressions from a configuration, which may come from anywhere: those that might not end are refused.

Python's `re` tries the ways to divide a text among the repeats of a pattern one after another. Their number grows
exponentially where a repeat holds another or holds alternatives, and with the number of repeats where it does not.
"""

from __future__ import annotations

import re

# Python has no other parser of its patterns.
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]

REPEATS = (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT)
CHOICES = (codes.BRANCH, codes.GROUPREF, codes.GROUPREF_EXISTS)
FEW = 8  # a repeat of no more than so many numbers of times is a choice like others
MAX_COST = 8  # of a pattern: 2 a repeat, 1 an optional part or a set of alternatives
MAX_LENGTH = 10_000


def check_pattern(name: str, pattern: str) -> None:
    """Refuse a pattern that is none, or whose matching might take unbounded time.

    Args:
        name (`str`): The setting it is the value of.
        pattern (`str`): The pattern.

    Raises:
        ValueError: If it is one of these; names the setting, the pattern and what to write instead.
    """
    if len(pattern) > MAX_LENGTH:
        raise ValueError(f"{name} is a pattern of {len(pattern)} characters; at most {MAX_LENGTH} are allowed.")
    try:
        tree = parser.parse(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{name}={pattern!r} is no regular expression: {error}.") from None
    if _cost(tree, repeated=False) > MAX_COST:
        raise ValueError(
            f"{name}={pattern!r} might take for ever to match: it has a repeat or alternatives inside a repeat, or "
            f"more than {MAX_COST // 2} repeats, of which two optional parts or sets of alternatives count as one. "
            "Give a list of names instead, or a simpler pattern."
        )


def _cost(tree: parser.SubPattern, repeated: bool) -> int:
    """What a parsed pattern may cost; where a repeat holds a choice, more than is allowed."""
    total = 0
    for code, argument in tree:
        own, inside_repeat = 0, repeated
        if code in REPEATS:
            low, high, _ = argument
            own = 0 if low == high else 1 if high - low <= FEW else 2
            inside_repeat = repeated or high > 1
        elif code in CHOICES:
            own = 1
        if own and repeated:
            return MAX_COST + 1
        total += own + sum(_cost(part, inside_repeat) for part in _parts(argument))
    return total


def _parts(argument: object) -> list[parser.SubPattern]:
    """The patterns inside one element of a parsed pattern."""
    if isinstance(argument, parser.SubPattern):
        return [argument]
    if isinstance(argument, (tuple, list)):
        return [part for item in argument for part in _parts(item)]
    return []
