"""Which files of a folder a run wrote, and that it has the folder for itself.

A run deletes only what `written.json` lists: files, and folders (with a slash at the end) that it made itself.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from mona_peft.finetuning.files import TEMPORARY, read_json, write_json

LIST_FILE = "written.json"
LOCK_FILE = "run.lock"
PROGRAM = "mona-peft"


class OwnFiles:
    """The files that a run wrote into its folder.

    Args:
        folder (`Path`): Of the run.
        names (`set[str]`): Paths in it, with `/`; folders end with one.
    """

    def __init__(self, folder: Path, names: set[str] | None = None) -> None:
        self.folder = folder
        self.names = names or set()

    @classmethod
    def read(cls, folder: Path) -> OwnFiles | None:
        """What a run has listed in `folder`; `None` if no run of this program was there.

        Raises:
            ValueError: If the list cannot be read or names what is not in the folder.
        """
        path = folder / LIST_FILE
        if not path.exists():
            return None
        remedy = "It lists what a run wrote; choose another output_dir, or delete this one by hand."
        listed = read_json(path, remedy)
        names = listed.get("files") if isinstance(listed, dict) and listed.get("program") == PROGRAM else None
        if not isinstance(names, list) or not all(isinstance(name, str) and _inside(folder, name) for name in names):
            raise ValueError(f"{path} is no list of files in its folder. {remedy}")
        return cls(folder, set(names))

    def add(self, *names: str) -> None:
        """List more files or folders, before they are written."""
        if not self.names.issuperset(names):
            self.names.update(names)
            self._write()

    @contextmanager
    def noting(self) -> Iterator[None]:
        """List the files that appear in the folder meanwhile, outside of other runs in it."""
        before = self._present()
        try:
            yield
        finally:
            self.add(*(self._present() - before))

    def remove(self, name: str) -> None:
        """Delete a listed file or folder; others stay."""
        if name not in self.names:
            return
        path = self.folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        self.names.discard(name)

    def clear(self) -> None:
        """Delete everything listed, and the folders that are empty then."""
        for name in sorted(self.names - {LIST_FILE}):
            self.remove(name)
            if not name.endswith("/"):  # what a kill left of it
                (self.folder / (name + TEMPORARY)).unlink(missing_ok=True)
            parent = (self.folder / name).parent
            while parent != self.folder and parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
                parent = parent.parent
        (self.folder / LIST_FILE).unlink(missing_ok=True)

    def _present(self) -> set[str]:
        """Files in the folder, outside the folders that are listed and those of other runs."""
        own = tuple(name for name in self.names if name.endswith("/"))
        paths = list(self.folder.rglob("*"))
        others = {path.parent for path in paths if path.name in (LIST_FILE, LOCK_FILE)} - {self.folder}
        files = (path for path in paths if not path.is_dir() and others.isdisjoint(path.parents))
        found = (path.relative_to(self.folder).as_posix() for path in files)
        return {name for name in found if not name.startswith(own) and not name.endswith(TEMPORARY)} - {LOCK_FILE}

    def _write(self) -> None:
        write_json(self.folder / LIST_FILE, {"program": PROGRAM, "files": sorted(self.names)})


def _inside(folder: Path, name: str) -> bool:
    """Whether a listed name stays in the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        return False
    return (folder / path).parent.resolve().is_relative_to(folder.resolve())


def lock_folder(folder: Path) -> FileLock:
    """Have a folder for this process alone, until the lock is released or the process ends, however it ends.

    Raises:
        RuntimeError: If another process has it.
        ValueError: If the lock is no file that can be opened.
    """
    path = folder / LOCK_FILE
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ValueError(f"{path} is no file of a run: it is a link, a folder or a device. Delete it.")
    lock = FileLock(path, timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except Timeout:
        raise RuntimeError(
            f"Another process is writing the run in {folder}. Wait for it to end or stop it, or choose another "
            "output_dir."
        ) from None
    except NotImplementedError:
        warnings.warn(f"The file system of {folder} has no locks; never start two runs in it at once.", stacklevel=2)
    return lock
