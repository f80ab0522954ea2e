"""What a user sees on the screen when the package is imported."""

import logging
import subprocess
import sys

from mona_peft.notices import LOGGER, NOTICE, without_notice


def test_importing_says_nothing():
    command = [sys.executable, "-c", "import mona_peft"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_only_the_known_notice_is_left_out_and_only_while_importing(caplog):
    logger = logging.getLogger(LOGGER)
    with without_notice():
        logger.warning("<enum 'A'> is an Enum subclass. %s and will be an error in a future release.", NOTICE)
        logger.warning("of something else")
    logger.warning("%s, later", NOTICE)
    assert [record.getMessage() for record in caplog.records] == ["of something else", f"{NOTICE}, later"]
