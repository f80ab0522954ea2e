"""The README's examples and commands run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import SwinConfig, SwinForImageClassification

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def fenced(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    lines = [line.split("  #")[0].split(" # ")[0].strip() for block in fenced("bash") for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.fixture
def hub_shaped(tmp_path):
    """A folder where the Hub's names are local: a small Swin instead of the pretrained one."""
    config = SwinConfig(embed_dim=12, depths=[1, 1], num_heads=[2, 2], num_labels=10)
    SwinForImageClassification(config).save_pretrained(tmp_path / "microsoft/swin-tiny-patch4-window7-224")
    return tmp_path


@pytest.mark.parametrize("example", fenced("python"))
def test_examples_run(example, hub_shaped):
    result = subprocess.run([sys.executable, "-c", example], cwd=hub_shaped, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "adapters" in result.stdout
    assert (hub_shaped / "flowers-mona/adapter_model.safetensors").exists()


def test_the_example_has_about_fifteen_lines():
    lines = [
        line for line in fenced("python")[0].splitlines() if line.strip() and not line.startswith(("import", "from"))
    ]
    assert len(lines) <= 15


@pytest.mark.parametrize("command", [line for line in commands() if line.startswith("make")])
def test_make_targets_exist(command):
    """`.ci/run` runs these; inside the tests they would run themselves."""
    environment = os.environ | {"MAKEFLAGS": ""}
    result = subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert "pytest" in result.stdout or "scripts/" in result.stdout or "rm -rf" in result.stdout


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
