"""A store of small JSON values by digest keys, in memory and optionally in one SQLite file.

Values in the file outlive the process, and other processes see them. Every value has an owner, such
as the digest of an API key. When a limit is exceeded, the owners with the most bytes lose their
least recently used values first, so nobody's values push out those of others.
"""

import json
import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from wkv.batching.eviction import Eviction, Weight
from wkv.errors import StateError
from wkv.serve.value_file import KEY, ValueFile

MEMORY_BYTES = 64 * 2**20
DISK_BYTES = 2**30

LOGGER = logging.getLogger(__name__)

Json = Any


class KeyValueStore:
    """Values by their keys. All methods are thread-safe.

    Raises:
        StateError: if the folder cannot be used.
    """

    def __init__(
        self,
        folder: Path | None = None,
        memory_bytes: int = MEMORY_BYTES,
        disk_bytes: int = DISK_BYTES,
    ) -> None:
        """Open the store.

        Args:
            folder: the folder of its file; None stores values in memory only.
            memory_bytes: limit of the values in memory, and of those that wait to be written.
            disk_bytes: limit of the values in the file.
        """
        self._memory_bytes = memory_bytes
        self._texts: dict[str, str] = {}
        self._eviction: Eviction[str] = Eviction()
        self._size = self._waiting = 0
        self._is_failing = False
        self._lock = threading.Lock()
        self._file: ValueFile | None = None
        self._writer: ThreadPoolExecutor | None = None
        if folder is not None:
            self._file = ValueFile(folder, disk_bytes)
            self._writer = ThreadPoolExecutor(1, thread_name_prefix="wkv-values")

    def put(self, key: str, value: Json, *, owner: str = "") -> None:
        """Store a value soon. If that fails, it is lost, and the first failure is logged."""
        text = json.dumps(value)
        self._remember(key, text, owner)
        with self._lock:
            is_full = self._waiting + len(text) > self._memory_bytes
        if self._writer is not None and not is_full:  # the disk may be slower than the requests
            self._submit(self._writer, key, text, owner)

    def put_now(self, key: str, value: Json, *, owner: str = "") -> None:
        """Store a value, and return when it is in the file.

        Raises:
            StateError: if it cannot be stored.
        """
        text = json.dumps(value)
        self._remember(key, text, owner)
        if self._writer is not None:
            self._submit(self._writer, key, text, owner).result()
        elif key not in self._texts:
            raise StateError(
                f"a value of {len(text)} bytes does not fit in the {self._memory_bytes} bytes of "
                "memory for stored values; send less"
            )

    def get(self, key: str, *, lasting: bool = False) -> Json | None:
        """Return the value of a key, or None.

        With `lasting`, a value that another process has deleted from the file is not returned.
        """
        if not KEY.fullmatch(key):
            return None
        with self._lock:
            text = self._texts.get(key)
            if text is not None:
                self._eviction.touch(key)
        if self._file is not None and (lasting or text is None):
            text, owner = self._file.get(key) or (None, "")
            if text is not None:
                self._remember(key, text, owner)
        if text is None:
            return None
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return None

    def delete(self, key: str) -> None:
        """Delete a value.

        Raises:
            StateError: if the file cannot be changed.
        """
        with self._lock:
            self._forget(key)
        if self._file is not None and KEY.fullmatch(key):
            self._file.delete(key)

    def close(self) -> None:
        """Write the remaining values and close the file."""
        if self._writer is not None:
            self._writer.shutdown()
        if self._file is not None:
            self._file.close()

    def _remember(self, key: str, text: str, owner: str) -> None:
        with self._lock:
            self._forget(key)
            self._texts[key] = text
            self._eviction.add(key, Weight(owner, len(text), 1))
            self._size += len(text)
            while self._size > self._memory_bytes:
                self._forget(self._eviction.next())

    def _forget(self, key: str) -> None:
        text = self._texts.pop(key, None)
        if text is not None:
            self._eviction.remove(key)
            self._size -= len(text)

    def _submit(
        self, writer: ThreadPoolExecutor, key: str, text: str, owner: str
    ) -> "Future[None]":
        with self._lock:
            self._waiting += len(text)
        return writer.submit(self._write, key, text, owner)

    def _write(self, key: str, text: str, owner: str) -> None:
        assert self._file is not None
        try:
            self._file.put(key, text, owner)
            self._is_failing = False
        except StateError as error:
            if not self._is_failing:
                LOGGER.warning("%s; until this works again, replies are not stored", error)
            self._is_failing = True
            raise
        finally:
            with self._lock:
                self._waiting -= len(text)
