"""Cache of states on disk; every process that runs the same model can find and reuse them."""

import hashlib
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from wkv.batching.owned_folder import OwnedFolder
from wkv.batching.request import owner_of
from wkv.errors import StateError
from wkv.inference.model import Model
from wkv.models.state import State

NAME = re.compile(r"(?:([0-9a-f]{16})-)?[0-9a-f]{64}\.safetensors")
"""A digest of the owner, if there is an API key, and a digest of all that the state depends on."""

MAX_PENDING = 32
"""States that may wait to be written. Further ones are skipped; they can be computed again."""

SCAN_INTERVAL = 256
"""Writes between two scans of the folder, to which other processes may write as well."""

TRIM_RATIO = 0.9
"""Fraction of the limit that remains after old files were deleted."""


class StateFolder:
    """A folder of state files of one model, with a limit in bytes.

    The name of a file is the SHA-256 of the model, its strategy, the tenant and the ids. So several
    processes on several machines can share a folder, and no text of a user becomes a path. Files
    are written atomically in a thread. When they become too many, the owner that takes the most
    space loses its least recently used ones; files of other origin are never touched.

    Attributes:
        folder: the folder of this model's files.
        limit: largest total size of the files.
    """

    def __init__(self, folder: Path, model: Model, limit: int) -> None:
        """Open or create the folder.

        Raises:
            StateError: if it cannot be used, or contains files of somebody else.
        """
        self.folder = folder / model.identity[:16]
        self.limit = limit
        self._files = OwnedFolder(self.folder, NAME)
        self._model = model
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="wkv-states")
        self._writing: dict[Path, Future[None]] = {}
        self._n_bytes, self._since_scan = 0, SCAN_INTERVAL

    def path(self, tenant: str, ids: Sequence[int]) -> Path:
        """Return the file of the state after a tenant's ids."""
        return next(path for _, path in self._paths(tenant, ids, [len(ids)]))

    def load(
        self, tenant: str, ids: Sequence[int], positions: Iterable[int]
    ) -> tuple[int, State] | None:
        """Return the last of the positions in `ids` that has a file, and the state in it."""
        for position, path in reversed(list(self._paths(tenant, ids, positions))):
            if not path.exists():
                continue
            try:
                state = State.load(path, self._model)
            except StateError:  # the file is damaged; the state can be computed again
                self._files.delete(path.name)
                continue
            if state.batch_size == 1 and state.logits is not None:
                with suppress(OSError):
                    os.utime(path)
                return position, state
        return None

    def _paths(
        self, tenant: str, ids: Sequence[int], positions: Iterable[int]
    ) -> Iterator[tuple[int, Path]]:
        """Yield the positions in `ids` in order, with their files; each id is hashed once."""
        context = f"{self._model.identity}\n{self._model.strategy}\n{tenant}\n"
        prefix = _owner_prefix(owner_of(tenant))
        digest, hashed = hashlib.sha256(context.encode()), 0
        for position in sorted(positions):
            digest.update(array("I", ids[hashed:position]).tobytes())
            hashed = position
            yield position, self.folder / f"{prefix}{digest.hexdigest()}.safetensors"

    def save(self, tenant: str, ids: Sequence[int], state: State) -> None:
        """Schedule the write of a state; errors of the disk are ignored."""
        path = self.path(tenant, ids)
        self._writing = {p: future for p, future in self._writing.items() if not future.done()}
        if path in self._writing or len(self._writing) >= MAX_PENDING:
            return
        self._writing[path] = self._writer.submit(self._write, path, state)

    def flush(self) -> None:
        """Wait until all scheduled states are written."""
        for future in list(self._writing.values()):
            future.result()

    def close(self) -> None:
        """Write the scheduled states and end the thread."""
        self._writer.shutdown()

    def _account(self, size: int) -> None:
        """Count a written file; scan the folder, which is slow, and trim it only if necessary."""
        self._n_bytes += size
        self._since_scan += 1
        if self._n_bytes > self.limit or self._since_scan > SCAN_INTERVAL:
            self._since_scan = 0
            self._n_bytes = self._files.trim(int(TRIM_RATIO * self.limit), _owner)

    def _write(self, path: Path, state: State) -> None:
        with suppress(StateError, OSError):
            if path.exists():
                os.utime(path)
                return
            self._files.write(path.name, state.save)
            self._account(path.stat().st_size)


def _owner_prefix(owner: str) -> str:
    """Return the beginning of the names of an owner's files; empty without API keys."""
    return f"{hashlib.sha256(owner.encode()).hexdigest()[:16]}-" if owner else ""


def _owner(name: str) -> str:
    """Return the owner's digest in a name, or an empty text."""
    match = NAME.fullmatch(name)
    return (match and match[1]) or ""
