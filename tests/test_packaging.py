"""The wheel and the sdist: complete, clean, and of use with the base requirements alone."""

import json
import os
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def run(*command, **options) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """The sdist, and the wheel made of it, from the files that git knows."""
    work = tmp_path_factory.mktemp("build")
    source = work / "source"
    listed = run("git", "-C", ROOT, "ls-files", "-z", "pyproject.toml", "README.md", "LICENSE", "src")
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", work / "dist", source)
    (sdist,), (wheel,) = (work / "dist").glob("*.tar.gz"), (work / "dist").glob("*.whl")
    return sdist, wheel


@pytest.mark.slow
def test_sdist_and_wheel_are_complete(built):
    sdist, wheel = built
    wanted = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "mona_peft").rglob("*")
        if path.is_file() and path.suffix in (".py", ".yaml", ".typed") and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = next(name for name in names if name.endswith("entry_points.txt"))
        assert "mona-peft = mona_peft.finetuning.commands.main:main" in archive.read(entry_points).decode()
        metadata = archive.read(entry_points.replace("entry_points.txt", "METADATA")).decode()
    assert wanted <= names and all(name.startswith("mona_peft") for name in names)
    assert metadata.count("\nProject-URL: ") >= 3 and "License-Expression: Apache-2.0" in metadata
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2].removeprefix("src/") for name in archive.getnames()}
    assert wanted <= names and {"pyproject.toml", "README.md", "LICENSE"} <= names
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
    run(sys.executable, "-m", "check_wheel_contents", wheel)


# An environment with the base requirements has everything that these need, and nothing of the extras.
BARE = """
import importlib.abc, importlib.util, json, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

MISSING = set(json.loads(sys.argv[1]))
sys.meta_path.insert(0, Missing())
# Libraries ask find_spec whether a package is there; the answer is no.
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.partition(".")[0] in MISSING else found(name, *rest)
import mona_peft, peft, torch
from transformers import SwinConfig, SwinForImageClassification
assert "site-packages" in mona_peft.__file__ and not MISSING & set(sys.modules), MISSING & set(sys.modules)
config = SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1], num_heads=[2], window_size=4)
model = peft.get_peft_model(SwinForImageClassification(config), mona_peft.MonaConfig(modules_to_save=["classifier"]))
model(pixel_values=torch.zeros(1, 3, 32, 32)).logits.sum().backward()
print(mona_peft.summary(model))
try:
    mona_peft.load
except ImportError as error:
    print("load says:", error)
"""


@pytest.mark.slow
def test_the_wheel_installs_and_works_with_the_base_requirements_alone(built, tmp_path):
    _, wheel = built
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    venv.create(tmp_path / "bare", with_pip=True)
    python = tmp_path / "bare" / "bin" / "python"
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel, env=environment)
    # The heavy requirements are those of this environment; of its extras, nothing is found.
    (site,) = (tmp_path / "bare").glob("lib/python*/site-packages")
    (site / "requirements.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {Requirement(text).name for text in project["optional-dependencies"]["train"]}
    modules = {"scikit-learn": "sklearn", "scikit-image": "skimage", "pillow": "PIL", "pyyaml": "yaml"}
    needed_by_peft = {"accelerate", "pyyaml", "tqdm", "filelock", "pillow"}
    missing = sorted(modules.get(name, name) for name in extras - needed_by_peft)
    assert {"torchvision", "datasets", "timm", "sklearn"} <= set(missing)
    said = run(python, "-c", BARE, json.dumps(missing), env=environment, cwd=tmp_path)
    assert "load says: mona_peft.load needs" in said and "with its extra [train]" in said
    command = tmp_path / "bare" / "bin" / "mona-peft"
    helped = run(command, "train", "classification", "--help", env=environment)
    assert helped.startswith("usage: mona-peft train classification")
    assert "swin-large-flowers102" in run(command, "recipes", env=environment)
