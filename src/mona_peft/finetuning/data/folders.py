"""Files that a data set lists: inside its folder, and regular."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

#: Characters of a file's name, as file systems allow at most.
LONGEST_NAME = 255


class DataFolder:
    """A folder whose files other files name.

    A data set may come from anybody. What it lists must not leave its folder by `..`, an absolute path or a symbolic
    link, and must not be a pipe or a device, which a reader would wait for. The folder itself may be a link, and the
    links of the Hub's cache to its own blobs are followed.

    Args:
        folder (`Path`): The folder.
        others (`Sequence[Path]`): Further folders that files may be in.
    """

    def __init__(self, folder: Path, others: Sequence[Path] = ()) -> None:
        self.folder = folder
        real = [Path(os.path.realpath(one)) for one in (folder, *others)]
        ancestors = (real[0], *real[0].parents)
        caches = [one.parent.parent / "blobs" for one in ancestors if one.parent.name == "snapshots"]
        self.allowed = tuple(os.path.join(path, "") for path in (*real, *caches))
        self._inside: dict[str, bool] = {}

    def file(self, name: object, named_by: object) -> Path:
        """The path of a listed file, which need not exist.

        Args:
            name (`str`): As listed.
            named_by (`object`): What lists it, for the message.

        Raises:
            ValueError: If it is no name, or the file is elsewhere or not a regular one.
        """
        if not isinstance(name, str) or not name or "\0" in name or len(os.path.basename(name)) > LONGEST_NAME:
            raise ValueError(f"{named_by} names the file {str(name)[:100]!r}, which is no file name.")
        path = os.path.join(self.folder, name)
        folder = os.path.dirname(path)
        if folder not in self._inside:
            self._inside[folder] = self._contains(os.path.join(os.path.realpath(folder), ""))
        try:
            mode = os.lstat(path).st_mode
        except OSError:
            mode = stat.S_IFREG  # the reader will say what is wrong with it
        inside = self._inside[folder]
        if stat.S_ISLNK(mode):
            inside = self._contains(os.path.realpath(path))
            mode = os.stat(path).st_mode if inside and os.path.exists(path) else stat.S_IFREG
        if not inside:
            raise ValueError(
                f"{named_by} names the file {name!r}, which is not inside {self.folder}. Put the file there and name "
                "it relative to that folder."
            )
        if not stat.S_ISREG(mode):
            raise ValueError(f"{named_by} names {name!r}, which is no regular file. Replace it by an image file.")
        return Path(path)

    def _contains(self, real: str) -> bool:
        return real.startswith(self.allowed)
