"""The README's examples and commands run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from transformers import SwinConfig, SwinForImageClassification, ViTImageProcessor

from tests.finetuning.data import layouts

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


# What makes a README command small and offline; nothing else of it is changed.
SMALL = {
    "scripts/train_classification.py": "--data_dir data --max_steps 1 --cpu --mixed_precision no --num_workers 0",
    "scripts/predict.py": "--cpu",
    "scripts/benchmark.py": "--model tiny.json --image_size 32 --batch_size 1 --repeats 1 --warmup 1 --threads 1",
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder like the repository's own, with Flowers102's archives, small models under the Hub's names, a photo."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "scripts").symlink_to(ROOT / "scripts")
    (folder / "data").mkdir()
    layouts.flowers102(folder / "data")
    config = SwinConfig(image_size=32, patch_size=2, embed_dim=12, depths=[1, 1], num_heads=[2, 2], window_size=4)
    config.save_pretrained(folder / "tiny")
    (folder / "tiny.json").symlink_to(folder / "tiny" / "config.json")
    model = folder / "microsoft/swin-large-patch4-window7-224-in22k"
    SwinForImageClassification(config).save_pretrained(model)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(model)
    (folder / "photos").mkdir()
    Image.new("RGB", (40, 30), "red").save(folder / "photos" / "rose.jpg")
    return folder


@pytest.mark.slow
def test_commands_run(workplace):
    """All of them, in the README's order: later ones use what earlier ones wrote."""
    ran = 0
    for command in commands():
        if command.startswith(("python scripts/", "accelerate launch scripts/")):
            script = next(word for word in command.split() if word.startswith("scripts/"))
            words = [*command.split(), *SMALL.get(script, "").split()]
            words[0] = sys.executable if words[0] == "python" else str(Path(sys.executable).with_name("accelerate"))
            if words[1] == "launch":
                words[2:2] = ["--cpu", "--num_processes", "1", "--num_machines", "1", "--dynamo_backend", "no"]
            result = subprocess.run(words, cwd=workplace, capture_output=True, text=True)
            assert result.returncode == 0, f"{command}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
            ran += 1
    assert ran >= 9
    assert (workplace / "labels.json").exists()


def test_every_command_is_known():
    """No command stands in the README that no test runs."""
    known = ("make ", "python scripts/", "accelerate launch scripts/")
    assert [command for command in commands() if not command.startswith(known)] == []


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
