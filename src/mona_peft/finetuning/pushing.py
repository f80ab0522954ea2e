"""Put a trained repository on the Hub."""

from __future__ import annotations

import warnings
from pathlib import Path

from huggingface_hub import HfApi


def push_repository(folder: Path, repo_id: str, private: bool = False, base_model: str | None = None) -> str:
    """Create the repository where it is missing and upload the folder to it.

    Args:
        folder (`Path`): what [`save_repository`] wrote.
        repo_id (`str`): `user/name`, or `name` for one's own.
        private (`bool`): whether a new repository is private.
        base_model (`str`, *optional*): warned about when it is a folder of this machine.

    Returns:
        `str`: the id with its user.
    """
    if base_model and Path(base_model).is_dir():
        warnings.warn(
            f"The base model of this adapter is the folder {base_model}, which others do not have. Give them the base "
            "model too: mona_peft.load(repo, base_model=...).",
            stacklevel=2,
        )
    api = HfApi()
    full_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    api.upload_folder(repo_id=full_id, folder_path=folder, commit_message="Upload the trained adapter")
    return full_id
