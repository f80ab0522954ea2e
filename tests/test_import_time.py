"""What importing costs: in CPU time, which other work on the machine lengthens little; the least of some runs."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: Seconds that the package may add to PEFT, or as a share of PEFT's own where the machine is slow or busy.
ADDED, SHARE = 0.3, 0.1
HELP = 2.0
RUNS = 3
IMPORT = """import time
start = time.process_time()
import peft
middle = time.process_time()
import mona_peft
print(middle - start, time.process_time() - middle)
"""
EXPLAIN = """import sys, time
words = {words}
sys.orig_argv = ["python", "/bin/mona-peft", *words]
from mona_peft.finetuning.commands.main import main
try:
    main(words)
except SystemExit:
    pass
print(time.process_time(), file=sys.stderr)
"""


def run(code: str, stream: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [float(word) for word in getattr(done, stream).splitlines()[-1].split()]


def test_the_package_adds_little_to_peft():
    pairs = []
    for _ in range(RUNS):
        pairs.append(run(IMPORT, "stdout"))
        if pairs[-1][1] <= max(ADDED, SHARE * pairs[-1][0]):
            return
    raise AssertionError(f"seconds of peft, and of mona_peft on top: {pairs}")


@pytest.mark.parametrize("words", [["--help"], ["plan", "--help"], ["benchmark", "--help"]], ids=" ".join)
def test_help_comes_at_once(words):
    assert min(run(EXPLAIN.format(words=words), "stderr")[0] for _ in range(RUNS)) <= HELP
