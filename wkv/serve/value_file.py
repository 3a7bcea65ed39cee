"""The SQLite file of a store of values. It is private, and its folder may have other files."""

import re
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from wkv.errors import StateError

KEY = re.compile(r"[0-9a-f]{16,64}")

FILE = "values.sqlite3"

OLD_SUFFIX = ".json"
"""Earlier versions stored each value in a file of its own, in the same folder."""

CLEAN_EVERY = 256
"""Values that are written between two checks of the size."""

CLEAN_FRACTION = 16
"""The size is also checked after this fraction of the limit was written."""

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
    key TEXT PRIMARY KEY, value TEXT NOT NULL, size INTEGER NOT NULL, used REAL NOT NULL,
    owner TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_use ON entries (used);
"""

VERSION = 2
"""Stored in the file. Version 1 has no owners; version 0 may have values in other files."""

OWN_FILES = re.compile(rf"{re.escape(FILE)}(-journal)?|{KEY.pattern}{re.escape(OLD_SUFFIX)}")


class ValueFile:
    """Texts by keys in one SQLite file, with a limit in bytes. All methods are thread-safe."""

    def __init__(self, folder: Path, limit: int) -> None:
        """Open or create the file.

        Raises:
            StateError: if this is not possible.
        """
        self._path = folder / FILE
        self._limit = limit
        self._lock = threading.Lock()
        self._n_written = self._bytes_written = 0
        self._connection = self._open()

    def get(self, key: str) -> tuple[str, str] | None:
        """Return the text of a key and its owner, and mark it as used."""
        with self._lock, suppress(sqlite3.Error):
            query = "SELECT value, owner, used FROM entries WHERE key = ?"
            found: tuple[str, str, float] | None
            found = self._connection.execute(query, (key,)).fetchone()
            if found is None:
                return None
            text, owner, used = found
            now = time.time()
            if now - used > USE_SECONDS:
                with suppress(sqlite3.Error):  # a read-only file can still be read
                    update = "UPDATE entries SET used = ? WHERE key = ?"
                    self._connection.execute(update, (now, key))
            return text, owner
        return None

    def put(self, key: str, text: str, owner: str) -> None:
        """Store a text. If the file was removed, a new one is created.

        Raises:
            StateError: if it cannot be stored.
        """
        with self._lock:
            try:
                self._insert(self._connection, key, text, owner)
            except sqlite3.Error:
                self._reopen()
                with _errors(self._path):
                    self._insert(self._connection, key, text, owner)
            self._n_written += 1
            self._bytes_written += len(text)
            many = self._n_written % CLEAN_EVERY == 1
            if many or self._bytes_written > self._limit // CLEAN_FRACTION:
                self._bytes_written = 0
                with suppress(sqlite3.Error):
                    self._trim()

    def delete(self, key: str) -> None:
        """Delete a text.

        Raises:
            StateError: if the file cannot be changed.
        """
        with self._lock, _errors(self._path):
            self._connection.execute("DELETE FROM entries WHERE key = ?", (key,))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _trim(self) -> None:
        """Delete the least recently used texts of the owners that have more than a fair share."""
        sizes = self._connection.execute("SELECT SUM(size) FROM entries GROUP BY owner").fetchall()
        share = fair_share([size for (size,) in sizes], self._limit)
        by_use = "SUM(size) OVER (PARTITION BY owner ORDER BY used DESC, key)"
        over = f"SELECT key FROM (SELECT key, {by_use} AS total FROM entries) WHERE total > ?"
        self._connection.execute(f"DELETE FROM entries WHERE key IN ({over})", (share,))

    @staticmethod
    def _insert(
        connection: sqlite3.Connection, key: str, text: str, owner: str, used: float | None = None
    ) -> None:
        used = time.time() if used is None else used
        row = (key, text, len(text.encode()) + ROW_OVERHEAD, used, owner)
        command = "INSERT OR REPLACE INTO entries (key, value, size, used, owner) VALUES"
        connection.execute(f"{command} (?, ?, ?, ?, ?)", row)

    def _reopen(self) -> None:
        connection = self._open()
        self._connection.close()
        self._connection = connection

    def _open(self) -> sqlite3.Connection:
        with _errors(self._path):
            _create_private(self._path)
            connection = sqlite3.connect(
                self._path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False
            )
            connection.executescript(SCHEMA)
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version < VERSION:
                with suppress(sqlite3.OperationalError):  # a new file has the column already
                    column = "owner TEXT NOT NULL DEFAULT ''"
                    connection.execute(f"ALTER TABLE entries ADD COLUMN {column}")
                if version == 0:
                    self._import_files(connection)
                with suppress(sqlite3.Error):
                    connection.execute(f"PRAGMA user_version = {VERSION}")
            return connection

    def _import_files(self, connection: sqlite3.Connection) -> None:
        """Import the files that the first version wrote, once; the files stay."""
        for file in sorted(self._path.parent.glob(f"*{OLD_SUFFIX}")):
            if KEY.fullmatch(file.stem):
                with suppress(OSError, UnicodeDecodeError):
                    file.chmod(0o600)
                    text, used = file.read_text("utf-8"), file.stat().st_mtime
                    self._insert(connection, file.stem, text, "", used)


def fair_share(sizes: Sequence[int], limit: int) -> int:
    """Return the largest size that each owner may have, so that all of them fit in the limit.

    Owners with less keep everything; the others share what they leave.
    """
    rest = sorted(sizes)
    while rest and rest[0] <= limit // len(rest):
        limit -= rest.pop(0)
    return limit // len(rest) if rest else max(sizes, default=limit)


def _create_private(path: Path) -> None:
    """Create a file, if necessary, that only its owner can read, and its folder likewise."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if all(OWN_FILES.fullmatch(entry.name) for entry in path.parent.iterdir()):
        path.parent.chmod(0o700)
    path.touch(mode=0o600)
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Convert errors of the disk and of SQLite to StateError."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise StateError(f"{path.parent}: nothing can be stored here ({error})") from error
