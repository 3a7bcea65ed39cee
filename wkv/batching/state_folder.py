"""States on a disk, each named by what it has read: any process of the same model finds them."""

import hashlib
import os
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from wkv.errors import StateError
from wkv.inference.model import Model
from wkv.models.state import State

SUFFIX = ".safetensors"
PARTIAL = ".partial"
BACKLOG = 32
"""States that may wait to be written; what comes then is not written: it can be read anew."""

LOOK_EVERY = 256
"""States that are written between two looks at the folder, where others may write as well."""

ROOM = 0.9
"""Part of the limit that is left when room is made."""

STALE_SECONDS = 3600
"""A file that was begun so long ago was left by a process that died."""


class StateFolder:
    """A folder of state files of one model, up to a number of bytes.

    A file's name is the SHA-256 of the model, its strategy, the tenant and the ids, so that several
    processes on several machines can share a folder, and nothing a user sends becomes a path. Files
    are written beside the caller, whole or not at all; those not used for longest go first.
    """

    def __init__(self, folder: Path, model: Model, limit: int) -> None:
        self.folder = folder / model.identity[:16]
        self.limit = limit
        self._model = model
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="wkv-states")
        self._writing: dict[Path, Future[None]] = {}
        self._taken, self._since_look = 0, LOOK_EVERY
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"{folder}: states cannot be kept here ({error})") from error

    def path(self, tenant: str, ids: Sequence[int]) -> Path:
        """The file of what a tenant's ids lead to."""
        return next(path for _, path in self._paths(tenant, ids, [len(ids)]))

    def load(
        self, tenant: str, ids: Sequence[int], places: Iterable[int]
    ) -> tuple[int, State] | None:
        """The state at the last of some places in `ids` that is here, and the place."""
        for place, path in reversed(list(self._paths(tenant, ids, places))):
            if not path.exists():
                continue
            try:
                state = State.load(path, self._model)
            except StateError:  # damaged: it can be read anew
                with suppress(OSError):
                    path.unlink()
                continue
            if state.batch_size == 1 and state.logits is not None:
                with suppress(OSError):
                    os.utime(path)
                return place, state
        return None

    def _paths(
        self, tenant: str, ids: Sequence[int], places: Iterable[int]
    ) -> Iterator[tuple[int, Path]]:
        """The files of places in `ids`, in their order; each id is read once."""
        whose = f"{self._model.identity}\n{self._model.strategy}\n{tenant}\n"
        digest, read = hashlib.sha256(whose.encode()), 0
        for place in sorted(places):
            digest.update(array("I", ids[read:place]).tobytes())
            read = place
            yield place, self.folder / f"{digest.hexdigest()}{SUFFIX}"

    def save(self, tenant: str, ids: Sequence[int], state: State) -> None:
        """Write a state, soon; a disk that fails costs speed later and nothing else."""
        path = self.path(tenant, ids)
        self._writing = {p: future for p, future in self._writing.items() if not future.done()}
        if path in self._writing or len(self._writing) >= BACKLOG:
            return
        self._writing[path] = self._writer.submit(self._write, path, state)

    def flush(self) -> None:
        """Wait until all that was given is written."""
        for future in list(self._writing.values()):
            future.result()

    def close(self) -> None:
        """Write what is left, and end."""
        self._writer.shutdown()

    def _account(self, size: int) -> None:
        """Count a file that was written, and make room; to look at all of them takes long."""
        self._taken += size
        self._since_look += 1
        if self._taken > self.limit or self._since_look > LOOK_EVERY:
            self._since_look = 0
            self._taken = keep_within(self.folder, int(ROOM * self.limit))

    def _write(self, path: Path, state: State) -> None:
        with suppress(StateError, OSError):
            if path.exists():
                os.utime(path)
                return
            partial = path.with_name(f"{path.stem}.{uuid4().hex}{PARTIAL}")
            state.save(partial)
            with partial.open("r+b") as written:  # Windows syncs only what can be written
                os.fsync(written.fileno())
            partial.replace(path)
            self._account(path.stat().st_size)


def keep_within(folder: Path, limit: int) -> int:
    """Delete the files that were not used for longest, until the rest takes at most `limit` bytes.

    What was begun and never ended goes as well. Other processes may do the same meanwhile. Gives
    the bytes that are left.
    """
    files = []
    for entry in os.scandir(folder):
        with suppress(OSError):
            about = entry.stat()
            if not entry.name.endswith(PARTIAL):
                files.append((about.st_mtime, about.st_size, entry.path))
            elif time.time() - about.st_mtime > STALE_SECONDS:
                os.unlink(entry.path)
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= limit:
            break
        with suppress(OSError):
            os.unlink(path)
        total -= size
    return total
