"""Put a trained repository on the Hub.

Once more, after a push that failed: `python -m mona_peft.finetuning.pushing FOLDER USER/NAME [--private]`.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import warnings
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, ModelCardData

from .environment import is_public, public_name
from .model_card import MARK, load_arguments
from .repository import ADAPTER_CONFIG, DELTA_CONFIG
from .validation import read_json

# The call in a card of ours that loads the repository.
LOADING = re.compile(r'mona_peft\.load\("(?:[^"\\]|\\.)*"')
#: Settings that name where a model came from.
ORIGINS = ("base_model_name_or_path", "_name_or_path", "name_or_path")


class PushError(RuntimeError):
    """A push that failed; the message says why, where everything is, and how to repeat it."""


def push_repository(folder: Path, repo_id: str, private: bool = False, base_model: str | None = None) -> str:
    """Create the repository where it is missing and upload the folder to it, in one commit.

    What is uploaded names no folder of this machine: a local base model is left out of the configurations, and the
    card loads the repository by its id.

    Args:
        folder (`Path`): What [`save_repository`] wrote.
        repo_id (`str`): `user/name`, or `name` for one's own.
        private (`bool`): Whether a new repository is private.
        base_model (`str`, *optional*): Warned about when it is a folder of this machine.

    Returns:
        `str`: The id with its user.

    Raises:
        PushError: If the card's metadata is not valid, or the Hub cannot be reached or refuses. The folder is as it
            was.
    """
    if base_model and Path(base_model).is_dir():
        warnings.warn(
            f"The base model of this adapter is the folder {base_model}, which others do not have. Give them the base "
            "model too: mona_peft.load(repo, base_model=...).",
            stacklevel=2,
        )
    api = HfApi()
    try:
        if (folder / "README.md").exists():
            ModelCard.load(folder / "README.md").validate()
        full_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        api.create_commit(full_id, uploads(folder, full_id), commit_message="Upload the trained model")
    except Exception as error:  # whatever the Hub, the connection or the card raise
        again = ["python", "-m", "mona_peft.finetuning.pushing", str(folder), repo_id]
        raise PushError(
            f"Could not push to {repo_id}: {' '.join(str(error).split())[:300]} Everything is in {folder}; push it "
            f"with: {shlex.join([*again, *(['--private'] if private else [])])}"
        ) from error
    return full_id


def uploads(folder: Path, repo_id: str) -> list[CommitOperationAdd]:
    """What to upload: every file of the folder, without names of folders of this machine."""
    return [
        CommitOperationAdd(str(path.relative_to(folder).as_posix()), _public_content(path, folder, repo_id))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]


def _public_content(path: Path, folder: Path, repo_id: str) -> Path | bytes:
    if path.name == "README.md":
        text = path.read_text(encoding="utf-8")
        for place in {str(folder.absolute()), str(folder.resolve())}:
            text = text.replace(place, repo_id)
        text = text.replace(f'mona_peft.load("{folder}"', f'mona_peft.load("{repo_id}"')
        call = f"mona_peft.load({load_arguments(repo_id, unpublished_base(folder))}"
        return (LOADING.sub(lambda found: call, text) if MARK in text else _public_card(text)).encode("utf-8")
    if path.suffix == ".json":
        content = json.loads(path.read_text(encoding="utf-8"))
        if _forget_places(content):
            return json.dumps(content, indent=2, sort_keys=True).encode("utf-8")
    return path


def _public_card(text: str) -> str:
    """The card that PEFT writes, without a base model that is a folder of this machine."""
    card = ModelCard(text, ignore_metadata_errors=True)
    data = card.data
    if not isinstance(data, ModelCardData) or not isinstance(data.base_model, str) or is_public(data.base_model):
        return text
    base, data.base_model = data.base_model, None
    data.tags = [tag for tag in data.tags or [] if not tag.startswith("base_model:")]
    return str(card).replace(base, public_name(base))


def unpublished_base(folder: Path) -> str | None:
    """What the card calls the base model that users have to name, because it is not on the Hub."""
    for name in (ADAPTER_CONFIG, DELTA_CONFIG):
        if (folder / name).exists():
            base = read_json(folder / name).get("base_model_name_or_path")
            return None if base and is_public(base) else public_name(str(base or "FOLDER"))
    return None


def _forget_places(content: object) -> bool:
    """Take out, at any depth, names of base models that are folders; gives back whether there was one."""
    found = False
    if isinstance(content, dict):
        for key, value in content.items():
            if key in ORIGINS and isinstance(value, str) and value and not is_public(value):
                content[key], found = None, True
            found |= _forget_places(value)
    elif isinstance(content, list):
        found = any([_forget_places(each) for each in content])
    return found


def main(arguments: list[str] | None = None) -> None:
    """Push a folder from the command line."""
    parser = argparse.ArgumentParser(description="Push a trained model to the Hub.")
    parser.add_argument("folder", type=Path, help="Folder with the trained model, such as runs/flowers/model.")
    parser.add_argument("repo_id", help="user/name on the Hub, or name for your own.")
    parser.add_argument("--private", action="store_true", help="Make a new repository private.")
    given = parser.parse_args(arguments)
    print(f"Pushed to {push_repository(given.folder, given.repo_id, given.private)}")


if __name__ == "__main__":
    main()
