"""A folder in which wkv writes and deletes its own files, and leaves all others alone.

A marker shows that wkv has created the folder or found it empty. In a marked folder, the files of
wkv are those whose names match a strict pattern. All of them are readable by their owner only.
"""

import heapq
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from wkv.errors import StateError
from wkv.files import move_into_place, temporary_folder, write_errors

MARKER = ".wkv-folder"
MARKER_TEXT = "wkv writes files to this folder, and deletes its own when they become too many.\n"

UNFINISHED = "unfinished"

LEFTOVER = re.compile(
    rf"\.{UNFINISHED}\.[a-z0-9_]{{8}}|([0-9a-f]{{64}}\.)?[0-9a-f]{{32}}(\.partial)+"
)
"""Names of unfinished files: hidden folders, and the files of earlier versions."""

STALE_SECONDS = 3600
"""Age at which an unfinished file is assumed to belong to a process that died."""

IDLE_SECONDS = 3600
"""An owner's bytes count twice if nothing of it was used for this long, three times after twice."""


@dataclass(frozen=True, order=True)
class OwnedFile:
    """A file of the folder.

    Attributes:
        used: the time of its last use, in seconds since 1970.
        name: its name.
        n_bytes: its size.
    """

    used: float
    name: str
    n_bytes: int


class OwnedFolder:
    """A private folder of files whose names match a pattern.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path, names: re.Pattern[str]) -> None:
        """Open or create the folder, and remove what a process that died left unfinished.

        Raises:
            StateError: if it cannot be used, or already contains files of somebody else.
        """
        self.path = path
        self._names = names
        with write_errors(path, StateError):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not (path / MARKER).is_file():
                self._claim()
            path.chmod(0o700)
        self.remove_unfinished()

    def files(self) -> list[OwnedFile]:
        """Return the files of wkv, the least recently used one first."""
        found = []
        for name, info in self._entries():
            if self._names.fullmatch(name) and stat.S_ISREG(info.st_mode):
                found.append(OwnedFile(info.st_mtime, name, info.st_size))
        return sorted(found)

    def write(self, name: str, write: Callable[[Path], object]) -> None:
        """Write a file atomically; `write` receives the path to write to.

        Raises:
            StateError: if it cannot be written.
        """
        with self.unfinished(name) as path:
            write(path)
            self.keep(path, name)

    @contextmanager
    def unfinished(self, name: str) -> Iterator[Path]:
        """Give a path for a new file. The file is removed at the end unless `keep` moved it.

        Raises:
            StateError: if it cannot be written.
        """
        with (
            temporary_folder(self.path / UNFINISHED, StateError) as folder,
            write_errors(self.path / name, StateError),
        ):
            yield folder / name

    def keep(self, unfinished: Path, name: str) -> None:
        """Move a complete file to its name; after this, it survives a power failure."""
        with unfinished.open("r+b") as written:  # Windows syncs only files open for writing
            os.fsync(written.fileno())
        move_into_place(unfinished, self.path / name, private=True)

    def delete(self, name: str) -> None:
        """Delete a file of wkv, if it exists."""
        if self._names.fullmatch(name):
            with suppress(OSError):
                (self.path / name).unlink()

    def trim(self, limit: int, owner: Callable[[str], str] = lambda _: "") -> int:
        """Delete files until the rest takes at most `limit` bytes; returns the bytes that remain.

        Args:
            limit: the number of bytes.
            owner: returns the owner of a file's name. The next file to delete is always the least
                recently used one of the owner with the largest `eviction_pressure`.
        """
        self.remove_unfinished()
        owners: dict[str, list[OwnedFile]] = {}
        for file in reversed(self.files()):
            owners.setdefault(owner(file.name), []).append(file)
        now = time.time()
        sizes = {name: sum(file.n_bytes for file in files) for name, files in owners.items()}

        def entry(name: str) -> tuple[float, str]:
            return -eviction_pressure(sizes[name], now - owners[name][0].used), name

        heap = [entry(name) for name in owners]
        heapq.heapify(heap)
        total = sum(sizes.values())
        while heap and total > limit:
            _, name = heapq.heappop(heap)
            file = owners[name].pop()
            self.delete(file.name)
            sizes[name] -= file.n_bytes
            total -= file.n_bytes
            if owners[name]:
                heapq.heappush(heap, entry(name))
        return total

    def remove_unfinished(self) -> None:
        """Remove unfinished files of processes that died; those of a running one are younger."""
        for name, info in self._entries():
            if LEFTOVER.fullmatch(name) and time.time() - info.st_mtime > STALE_SECONDS:
                if stat.S_ISDIR(info.st_mode):
                    shutil.rmtree(self.path / name, ignore_errors=True)
                else:
                    with suppress(OSError):
                        (self.path / name).unlink()

    def _entries(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield the names in the folder, without following links."""
        with suppress(OSError), os.scandir(self.path) as entries:
            for entry in entries:
                with suppress(OSError):  # another process has deleted it
                    yield entry.name, entry.stat(follow_symlinks=False)

    def _claim(self) -> None:
        """Mark a folder that is empty, or that an earlier version filled."""
        names = sorted(name for name, _ in self._entries())
        strangers = [name for name in names if not self._is_own(name)]
        if strangers:
            raise StateError(
                f"{self.path}: this folder has files that wkv did not write, such as "
                f"{strangers[0]!r}; give a folder that is new or empty"
            )
        (self.path / MARKER).touch(mode=0o600)
        (self.path / MARKER).write_text(MARKER_TEXT, encoding="utf-8")

    def _is_own(self, name: str) -> bool:
        """Return whether wkv wrote a file; another thread or process may just write the marker."""
        return name == MARKER or any(p.fullmatch(name) for p in (self._names, LEFTOVER))


def eviction_pressure(n_bytes: int, idle_seconds: float) -> float:
    """Return how much an owner should give up space: its bytes, which count more if it is idle."""
    return n_bytes * (1 + max(0.0, idle_seconds) / IDLE_SECONDS)
