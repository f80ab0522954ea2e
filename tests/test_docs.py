"""Every block of code and every command of the README and the pages runs, in the order of its page.

A page has a folder of its own that looks as the page says: photos by class, and under the Hub's names small models of
random weights (a relative path goes before the Hub). timm and torchvision give random weights for pretrained ones.
Commands run as they stand, with what `SMALL` appends to make them quick; nothing else of them is changed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.pages import given, write_template

ROOT = Path(__file__).parents[1]
PAGES = {path.name: path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
#: Blocks that are only looked at.
SHOWN = {"text", "yaml", "bibtex", "json"}
TRAIN = "--max_steps 1 --batch_size 2 --cpu --num_workers 0 --mixed_precision no --no_progress_bar"
STUDY = "--study_size tiny --study_dir study --methods mona fixed --learning_rates 0.01"
#: What makes a command small and offline, by how it begins; later ones win.
SMALL = {
    "train": TRAIN,
    "predict": "--cpu",
    "compare": STUDY,
    "ablate": "--study_size tiny --study_dir ablations --groups design",
    "plan": "--model tiny.json --image_size 64 --method mona --precision float32",
    "benchmark": "--model tiny.json --image_size 64 --batch_size 2 --repeats 1 --warmup 1 --threads 1",
    "app": "",
    "demo": "--demo_size tiny --demo_dir demo",
}
#: What the flags that scale a benchmark have in place of their values.
SCALES = {"--scale_image_size": ("64", "128"), "--scale_batch_size": ("1", "2"), "--scale_model": ("tiny.json",)}
SCRIPTS = {
    "train_classification": "train",
    "train_semantic_segmentation": "train",
    "train_detection": "train",
    "train_instance_segmentation": "train",
}


def blocks(page: str) -> list[tuple[str, str]]:
    return BLOCK.findall(PAGES[page].read_text(encoding="utf-8"))


def commands(text: str) -> list[list[str]]:
    """The commands of a block, comments away and long lines joined."""
    lines = [shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line]


ALL_COMMANDS = [
    (page, command)
    for page in PAGES
    for language, text in blocks(page)
    if language == "bash"
    for command in commands(text)
]
RUNNING = [page for page in PAGES if any(language not in SHOWN for language, _ in blocks(page))]


def subject(words: list[str]) -> str | None:
    """Which row of `SMALL` is for a command of this package; None for `pip` and `make`."""
    launched = words[words.index("-m") + 2 :] if words[0] == "accelerate" and "-m" in words else words[1:]
    script = next((Path(word).stem for word in words if word.startswith("scripts/")), None)
    name = SCRIPTS.get(script, script) if script else launched[0]
    return None if words[0] in ("pip", "make") else name


def runnable(words: list[str]) -> list[str]:
    """The words as they are run: by this Python, and small."""
    small = [] if "--parameters" in words else shlex.split(SMALL.get(subject(words) or "", ""))
    small += [word for flag in SCALES if flag in words for word in (flag, *SCALES[flag])]
    if words[0] == "accelerate":
        defaults = ["--num_machines", "1", "--dynamo_backend", "no"]
        return [str(Path(sys.executable).with_name("accelerate")), "launch", *defaults, *words[2:], *small]
    start = [sys.executable, "-m", "mona_peft"] if words[0] == "mona-peft" else [sys.executable]
    return [*start, *words[1:], *small]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages") / "template"
    write_template(folder)
    return folder


@pytest.fixture
def workplace(template, tmp_path, monkeypatch):
    """A copy of the template, where the test then is; with random weights in the place of downloads."""
    folder = tmp_path / "workplace"
    shutil.copytree(template, folder)
    (folder / "scripts").symlink_to(ROOT / "scripts")
    monkeypatch.chdir(folder)
    import timm
    from torchvision.models import WeightsEnum, get_model

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False, **options: create(name, **options))

    def random_weights(self, **options):
        return get_model(type(self).__name__.removesuffix("_Weights").lower()).state_dict()

    monkeypatch.setattr(WeightsEnum, "get_state_dict", random_weights)
    return folder


def run_command(words: list[str]) -> None:
    if subject(words) is None:
        return  # of these the tests below speak
    done = subprocess.run(runnable(words), capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "page",
    [
        # its benchmarks take a quarter of an hour, small as they are
        pytest.param(page, marks=[pytest.mark.campaign] if page == "performance.md" else [])
        for page in PAGES
        if any(language not in SHOWN for language, _ in blocks(page))
    ],
)
def test_every_block_of_a_page_runs(page, workplace):
    names: dict[str, object] = {"__name__": page, **given(page)}
    for language, text in blocks(page):
        if language == "python":
            sys.modules[page] = type(sys)(page)  # dataclasses look their module up
            exec(compile(text, f"{page}: {text.splitlines()[0]}", "exec", dont_inherit=True), names)
        elif language == "bash":
            for words in commands(text):
                run_command(words)


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_of_known_kinds(page):
    """A block without a language, or of another one, would be run by no test."""
    text = PAGES[page].read_text(encoding="utf-8")
    assert len(re.findall(r"^```", text, flags=re.MULTILINE)) == 2 * len(blocks(page))
    assert {language for language, _ in blocks(page)} <= SHOWN | {"python", "bash"}


@pytest.mark.parametrize(("page", "words"), ALL_COMMANDS, ids=[" ".join(words) for _, words in ALL_COMMANDS])
def test_commands_are_of_known_kinds(page, words):
    """A command that no test can run does not stand in a page."""
    name = subject(words)
    if words[0] == "make":
        environment = {**os.environ, "MAKEFLAGS": ""}
        done = subprocess.run([*words, "--dry-run"], cwd=ROOT, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
    elif words[0] == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert words[1:3] == ["install", "-e"]
        assert set(re.findall(r"[\w-]+", words[3].partition("[")[2])) <= set(extras)
    else:
        assert words[0] in ("mona-peft", "python", "accelerate") and (name in SMALL or name == "recipes")


def test_the_picture_is_that_of_its_script():
    done = subprocess.run(
        [sys.executable, "-c", "from draw_mona import *; print(draw() == TARGET.read_text(encoding='utf-8'))"],
        cwd=ROOT / "docs" / "assets",
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["True"], f"Run python docs/assets/draw_mona.py. {done.stderr}"
