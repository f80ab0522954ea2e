"""Whether this process wants the package for what it explains of itself, which needs no torch."""

from collections.abc import Sequence
from pathlib import PurePath

COMMAND = "mona-peft"
#: Words that ask for no more than text.
EXPLAINING = {"-h", "--help", "--help-all", "--version"}


def only_explains(process: Sequence[str]) -> bool:
    """Whether a process is the command `mona-peft`, asked for help or for a list.

    The tuners are then not imported: torch and PEFT take seconds, in which a user would wait for a text. Nothing else
    of the process can miss them, as it ends with the text.

    Args:
        process (`Sequence[str]`): Its command line, as `sys.orig_argv` has it.
    """
    words = list(process[1:])
    while words and words[0].startswith("-") and words[:2] != ["-m", "mona_peft"]:
        words = words[2:] if words[0] in ("-X", "-W") else words[1:]  # options of Python
    if words[:2] == ["-m", "mona_peft"]:
        words = words[2:]
    elif words and PurePath(words[0]).stem == COMMAND:
        words = words[1:]
    else:
        return False
    return not words or words[0] == "recipes" or not EXPLAINING.isdisjoint(words)
