"""The README is short, and nothing in the repository speaks of one machine; `test_docs.py` runs what it shows."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def fenced(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_example_has_about_fifteen_lines():
    lines = [
        line for line in fenced("python")[0].splitlines() if line.strip() and not line.startswith(("import", "from"))
    ]
    assert len(lines) <= 15


def test_it_can_be_read_in_one_go():
    assert len(README.splitlines()) <= 150


def test_ci_runs_the_two_commands():
    script = (ROOT / ".ci" / "run").read_text()
    for command in ("make --no-print-directory test", "make --no-print-directory demo"):
        assert command in script


def test_no_trace_of_one_machine():
    """What stands in the repository means the same anywhere."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    pattern = re.compile(r"/(?:home|root|work|tmp/dev)/")
    for name in tracked:
        if (
            name.endswith((".py", ".md", ".toml", ".yaml", ".yml", ".ipynb", "Makefile", ".json"))
            and name != "tests/test_readme.py"
        ):
            assert not pattern.search((ROOT / name).read_text(errors="ignore")), name
