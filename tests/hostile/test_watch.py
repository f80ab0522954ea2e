"""The watch sees what a hostile case must not do: a campaign that notes nothing would pass."""

import os
import subprocess
import sys
from pathlib import Path

from mona_peft.finetuning.files import read_json

from .watch import run_cases

OUTSIDE = Path.home() / "written-by-a-hostile-case"


def case(rng, folder):
    """One way to end after the other, by what the generator's seed gives."""
    ways[rng.getrandbits(32) % len(ways)](folder)


def ends_well(folder):
    (folder / "own").write_text("")


def removes_a_link(folder):
    (folder / "link").symlink_to("/etc/passwd")
    (folder / "link").unlink()


def is_refused(folder):
    read_json(folder / "nothing.json", "Put it there.")


def leaks_a_traceback(folder):
    {}["nothing"]


def opens_outside(folder):
    with open(OUTSIDE, "a"):
        OUTSIDE.unlink()


def writes_through_a_link(folder):
    (folder / "link").symlink_to(OUTSIDE)
    (folder / "link").write_text("")
    OUTSIDE.unlink()


def starts_a_program(folder):
    subprocess.run([sys.executable, "-c", ""])


def runs_code(folder):
    (folder / "code.py").write_text("pass")
    exec(compile("pass", str(folder / "code.py"), "exec"))


def dies(folder):
    os._exit(7)


def asks_for_memory(folder):
    bytearray(8 * 2**30)


ways = [
    *(ends_well, removes_a_link, is_refused),
    *(leaks_a_traceback, opens_outside, writes_through_a_link, starts_a_program, runs_code, dies, asks_for_memory),
]
SAID = {
    "leaks_a_traceback": "KeyError",
    "opens_outside": str(OUTSIDE),
    "writes_through_a_link": "open of",
    "starts_a_program": "subprocess.Popen",
    "runs_code": "was run",
    "dies": "exit code 7",
    "asks_for_memory": "MemoryError",
}


def test_the_watch_sees_what_a_case_must_not_do():
    import random

    seed_of = {}
    for seed in range(10**4):
        seed_of.setdefault(ways[random.Random(seed).getrandbits(32) % len(ways)].__name__, seed)
    for name, seed in seed_of.items():
        bad = run_cases(case, range(seed, seed + 1))
        if name in SAID:
            assert len(bad) == 1 and SAID[name] in bad[0].problem, (name, bad)
        else:
            assert not bad, (name, bad)
    assert set(SAID) < set(seed_of)
