"""A store of small JSON values by digest keys, in memory and optionally in one SQLite file.

Values in the file outlive the process, and other processes see them. Values that were used least
recently are deleted first when a limit is exceeded.
"""

import json
import re
import sqlite3
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from wkv.errors import StateError

KEY = re.compile(r"[0-9a-f]{16,64}")

FILE = "values.sqlite3"

OLD_SUFFIX = ".json"
"""Earlier versions stored each value in a file of its own, in the same folder."""

MEMORY_BYTES = 64 * 2**20
DISK_BYTES = 2**30

CLEAN_EVERY = 256
"""Values that are written between two checks of the size on disk."""

ROW_OVERHEAD = 200
"""Bytes of a row beside its text: the key, which the index holds again, and SQLite's own."""

USE_SECONDS = 60.0
"""The time of the last use is updated at most this often, because updates are writes."""

LOCK_SECONDS = 30.0
"""How long a process waits for another one that is writing."""

SCHEMA = """
PRAGMA auto_vacuum = FULL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS entries (
    key TEXT PRIMARY KEY, value TEXT NOT NULL, size INTEGER NOT NULL, used REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_use ON entries (used);
"""

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
            memory_bytes: limit of the values in memory.
            disk_bytes: limit of the values in the file.
        """
        self._memory_bytes, self._disk_bytes = memory_bytes, disk_bytes
        self._texts: OrderedDict[str, str] = OrderedDict()
        self._size = self._written = 0
        self._lock = threading.Lock()
        self._disk: _Disk | None = None
        self._writer: ThreadPoolExecutor | None = None
        if folder is not None:
            self._disk = _Disk(folder)
            self._writer = ThreadPoolExecutor(1, thread_name_prefix="wkv-values")

    def put(self, key: str, value: Json, *, at_once: bool = False) -> None:
        """Store a value. It is in the file a moment later, or with `at_once` when this returns."""
        text = json.dumps(value)
        self._remember(key, text)
        if self._writer is not None:
            written: Future[None] = self._writer.submit(self._write, key, text)
            if at_once:
                written.result()

    def get(self, key: str, *, lasting: bool = False) -> Json | None:
        """Return the value of a key, or None.

        With `lasting`, a value that another process has deleted from the file is not returned.
        """
        if not KEY.fullmatch(key):
            return None
        with self._lock:
            text = self._texts.get(key)
            if text is not None:
                self._texts.move_to_end(key)
        if self._disk is not None and (lasting or text is None):
            text = self._disk.get(key)
        if text is None:
            return None
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return None
        self._remember(key, text)
        return value

    def delete(self, key: str) -> None:
        """Delete a value."""
        with self._lock:
            self._size -= len(self._texts.pop(key, ""))
        if self._disk is not None and KEY.fullmatch(key):
            self._disk.delete(key)

    def close(self) -> None:
        """Write the remaining values and close the file."""
        if self._writer is not None:
            self._writer.shutdown()
        if self._disk is not None:
            self._disk.close()

    def _remember(self, key: str, text: str) -> None:
        with self._lock:
            self._size += len(text) - len(self._texts.pop(key, ""))
            self._texts[key] = text
            while self._size > self._memory_bytes:
                _, gone = self._texts.popitem(last=False)
                self._size -= len(gone)

    def _write(self, key: str, text: str) -> None:
        assert self._disk is not None
        self._disk.put(key, text)
        self._written += 1
        if self._written % CLEAN_EVERY == 1:
            self._disk.limit(self._disk_bytes)


class _Disk:
    """The SQLite file. If the disk fails, values are lost, but requests continue."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                folder / FILE, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._connection.executescript(SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise StateError(f"{folder}: nothing can be stored here ({error})") from error
        self._lock = threading.Lock()
        self._import_files(folder)

    def get(self, key: str) -> str | None:
        """Return the text of a key, and mark it as used."""
        with self._lock, suppress(sqlite3.Error):
            query = "SELECT value, used FROM entries WHERE key = ?"
            found: tuple[str, float] | None = self._connection.execute(query, (key,)).fetchone()
            if found is None:
                return None
            now = time.time()
            if now - found[1] > USE_SECONDS:
                with suppress(sqlite3.Error):  # a read-only file can still be read
                    update = "UPDATE entries SET used = ? WHERE key = ?"
                    self._connection.execute(update, (now, key))
            return found[0]
        return None

    def put(self, key: str, text: str, used: float | None = None) -> None:
        """Store a text."""
        size = len(text.encode()) + ROW_OVERHEAD
        row = (key, text, size, time.time() if used is None else used)
        with self._lock, suppress(sqlite3.Error):
            self._connection.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)", row)

    def delete(self, key: str) -> None:
        """Delete a text."""
        with self._lock, suppress(sqlite3.Error):
            self._connection.execute("DELETE FROM entries WHERE key = ?", (key,))

    def limit(self, n_bytes: int) -> None:
        """Delete the texts that were used least recently until the rest fits."""
        query = "SELECT key, SUM(size) OVER (ORDER BY used DESC, key) AS total FROM entries"
        with self._lock, suppress(sqlite3.Error):
            self._connection.execute(
                f"DELETE FROM entries WHERE key IN (SELECT key FROM ({query}) WHERE total > ?)",
                (n_bytes,),
            )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _import_files(self, folder: Path) -> None:
        """Import the files that an earlier version wrote, once; the files stay."""
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version:
            return
        for file in sorted(folder.glob(f"*{OLD_SUFFIX}")):
            if KEY.fullmatch(file.stem):
                with suppress(OSError, UnicodeDecodeError):
                    self.put(file.stem, file.read_text("utf-8"), file.stat().st_mtime)
        with suppress(sqlite3.Error):
            self._connection.execute("PRAGMA user_version = 1")
