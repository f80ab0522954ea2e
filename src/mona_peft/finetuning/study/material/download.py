"""Files of package registries, downloaded by the registries' own clients and checked against a pinned hash."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Download:
    """One file of a registry.

    Args:
        package (`str`): The package, for messages.
        file_name (`str`): What the client calls the file.
        sha256 (`str`): Its hash, in hexadecimal digits.
        command (`tuple[str, ...]`): The client's command, run in the folder that the file goes to.
        licence (`str`): Of what the file holds, as its authors name it.
    """

    package: str
    file_name: str
    sha256: str
    command: tuple[str, ...]
    licence: str

    def fetch(self, folder: Path) -> Path:
        """Give the file in `folder`, downloaded if it is not there.

        Raises:
            RuntimeError: If the client is missing or fails.
            ValueError: If the file is not the one that is pinned.
        """
        path = folder / self.file_name
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            run_client(self.command, folder, f"{self.remedy(folder)}")
        if not path.exists():
            raise RuntimeError(f"{' '.join(self.command)} did not write {path}. {self.remedy(folder)}")
        found = file_hash(path)
        if found != self.sha256:
            raise ValueError(f"{path} has the SHA-256 {found}, not {self.sha256}. Delete it and run this again.")
        return path

    def remedy(self, folder: Path) -> str:
        """What a user can do where the client does not work."""
        return f"Or put {self.file_name} of {self.package} (SHA-256 {self.sha256}) into {folder} by hand."


def run_client(command: Sequence[str], folder: Path, remedy: str = "") -> None:
    """Run a registry's client in `folder`.

    Raises:
        RuntimeError: If it is missing or fails, with the end of what it printed and the remedy.
    """
    if shutil.which(command[0]) is None:
        raise RuntimeError(f"The program '{command[0]}' is needed and was not found. {remedy}")
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {result.stderr.strip()[-500:]} {remedy}")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
