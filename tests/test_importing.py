"""What a user sees on the screen when the package is imported."""

import logging
import subprocess
import sys

from mona_peft.notices import LOGGER, NOTICE, without_notice


def test_importing_says_no_more_than_peft():
    """PEFT imports bitsandbytes where it is installed, which speaks of kernels that a CPU could use."""
    done = {name: said(f"import {name}") for name in ("peft", "mona_peft")}
    assert done["mona_peft"] <= done["peft"], done


def said(code):
    """The lines that Python prints when it runs `code`."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return {*done.stdout.splitlines(), *done.stderr.splitlines()}


def test_only_the_known_notice_is_left_out_and_only_while_importing(caplog):
    logger = logging.getLogger(LOGGER)
    with without_notice():
        logger.warning("<enum 'A'> is an Enum subclass. %s and will be an error in a future release.", NOTICE)
        logger.warning("of something else")
    logger.warning("%s, later", NOTICE)
    assert [record.getMessage() for record in caplog.records] == ["of something else", f"{NOTICE}, later"]
