"""A folder that runs as a Hugging Face Space: the app, its models, this package, requirements and card."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from huggingface_hub import SpaceCard, SpaceCardData
from packaging.requirements import Requirement

import mona_peft
from mona_peft.finetuning.environment import is_public
from mona_peft.finetuning.files import write_text
from mona_peft.finetuning.pushing import uploads
from mona_peft.finetuning.repository import BASE_FILES, REPOSITORY_FILES, open_repository

from .models import Origin

APP = '''"""The app of this Space, as `mona-peft app --export_space` wrote it."""

from pathlib import Path

from mona_peft.finetuning.app.models import AppModels, Origin
from mona_peft.finetuning.app.page import build_page

HERE = Path(__file__).parent
# By name: the repository and, where it is named apart, the base model; folders of this Space, or ids on the Hub.
MODELS = {models}


def place(name):
    return str(HERE / name) if name and (HERE / name).is_dir() else name


origins = {{name: Origin(*map(place, pair)) for name, pair in MODELS.items()}}
build_page(AppModels(origins, top_k={top_k}, threshold={threshold})).launch()
'''
CARD = """# {title}

Drop a picture and choose an adapter: what it finds, the same with the adapter off, and what each block contributes.
"""
EXTRAS = ("train", "app")


def write_space(origins: Mapping[str, Origin], folder: str | Path, top_k: int = 5, threshold: float = 0.5) -> Path:
    """Write a Space that shows models.

    Models on the Hub are named, those of this machine copied with the base models they need; the copies name no
    folder of this machine. The package is copied, so that the Space runs what runs here.

    Args:
        origins (`Mapping[str, Origin]`): By the names that the page shows.
        folder (`str` or `Path`): It must not exist, or be empty.
        top_k (`int`): Labels shown of a picture.
        threshold (`float`): Objects with a lower score are left out.

    Raises:
        ValueError: If the folder is not empty, or a model is not what it must be.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already and not empty; name a new folder with --export_space.")
    try:
        gradio_version = version("gradio")
    except PackageNotFoundError as error:
        raise ValueError("gradio is not installed: install mona-peft with its extra [app].") from error
    opened = {name: open_repository(origin.repository) for name, origin in origins.items()}
    folder.mkdir(parents=True, exist_ok=True)
    models: dict[str, list[str | None]] = {}
    bases: dict[Path, str] = {}
    for number, (name, origin) in enumerate(origins.items()):
        place = f"models/{_file_name(name)}-{number}"
        base = origin.base_model or opened[name].base
        if Path(origin.repository).is_dir():
            _copy_repository(opened[name].folder, folder / place)
        models[name] = [
            place if Path(origin.repository).is_dir() else origin.repository,
            _copy_base(base, folder, bases) or origin.base_model,
        ]
    source = Path(mona_peft.__file__).parent
    shutil.copytree(source, folder / "mona_peft", ignore=shutil.ignore_patterns("__pycache__"))
    text = APP.format(models=json.dumps(models, indent=4).replace("null", "None"), top_k=top_k, threshold=threshold)
    write_text(folder / "app.py", text)
    write_text(folder / "requirements.txt", "\n".join(requirements()) + "\n")
    _write_card(folder, [pair[0] for pair in models.values()], gradio_version)
    print(f"{folder} runs as a Space: python {folder / 'app.py'} here, or push the folder to a Space of yours.")
    return folder


def requirements() -> list[str]:
    """What the package needs with the extras of the app, as pip reads it."""
    wanted = [Requirement(line) for line in requires("mona-peft") or []]
    environments: list[dict[str, str]] = [{"extra": extra} for extra in ("", *EXTRAS)]
    kept = [r for r in wanted if r.marker is None or any(r.marker.evaluate(each) for each in environments)]
    return sorted({f"{r.name}{r.specifier}" for r in kept if r.name != "mona-peft"})


def _copy_repository(source: Path, target: Path) -> None:
    """Copy the files that a model is loaded from as they would be pushed: without names of folders of this machine."""
    for upload in uploads(source, target.name):
        if not any(fnmatch(upload.path_in_repo, pattern) for pattern in REPOSITORY_FILES):
            continue
        path = target / upload.path_in_repo
        path.parent.mkdir(parents=True, exist_ok=True)
        content = upload.path_or_fileobj
        assert isinstance(content, str | Path | bytes)
        path.write_bytes(content if isinstance(content, bytes) else Path(content).read_bytes())


def _copy_base(base: str | None, folder: Path, copied: dict[Path, str]) -> str | None:
    """Copy the base model where it is a folder of this machine; gives back where the Space has it."""
    if not base or is_public(base) or not Path(base).is_dir():
        return None
    source = Path(base).resolve()
    if source not in copied:
        copied[source] = f"bases/{_file_name(source.name)}-{len(copied)}"
        target = folder / copied[source]
        target.mkdir(parents=True)
        for file in sorted({path for pattern in BASE_FILES for path in source.glob(pattern)}):
            shutil.copy(file, target / file.name)
    return copied[source]


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "model"


def _write_card(folder: Path, repositories: list[str | None], gradio_version: str) -> None:
    title = "Adapters on a picture"
    data = SpaceCardData(
        title=title,
        sdk="gradio",
        sdk_version=gradio_version,
        python_version="3.11",
        app_file="app.py",
        models=[each for each in repositories if each and is_public(each)] or None,
        tags=["mona-peft", "vision"],
    )
    SpaceCard(f"---\n{data.to_yaml()}\n---\n\n{CARD.format(title=title)}").save(folder / "README.md")
