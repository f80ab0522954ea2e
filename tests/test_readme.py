"""The README is short, and nothing in the repository speaks of one machine; `test_docs.py` runs what it shows."""

import re
import subprocess
from pathlib import Path

import yaml

import mona_peft

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


def test_the_workflow_runs_the_steps_of_ci_run():
    targets = re.findall(r"make --no-print-directory ([\w-]+)", (ROOT / ".ci" / "run").read_text())
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = workflow["jobs"]["check"]["strategy"]["matrix"]["step"]
    assert ["env", *(step.split()[0] for step in steps)] == targets


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == mona_peft.__version__
    names = [author["family-names"] for author in citation["preferred-citation"]["authors"]]
    assert all(name in README for name in names)


def test_no_trace_of_one_machine():
    """What stands in the repository means the same anywhere."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    pattern = re.compile(r"/(?:home|root|work|tmp/dev)/")
    for name in tracked:
        if (
            name.endswith((".py", ".md", ".toml", ".yaml", ".yml", ".ipynb", ".cff", "Makefile", ".json"))
            and name != "tests/test_readme.py"
        ):
            assert not pattern.search((ROOT / name).read_text(errors="ignore")), name
