"""Small JSON values by a key that is a digest: in memory, and in a folder if there is one.

What is in the folder outlives the process, and other processes find it there.
"""

import json
import os
import re
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from wkv.batching.state_folder import PARTIAL, keep_within
from wkv.errors import StateError

KEY = re.compile(r"[0-9a-f]{16,64}")
SUFFIX = ".json"

MEMORY_BYTES = 64 * 2**20
DISK_BYTES = 2**30

TIDY_EVERY = 256
"""Values that are written between two looks at how much there is."""

Json = Any


class Notes:
    """Values by their keys; those not used for longest go first. Safe to use from any thread."""

    def __init__(
        self,
        folder: Path | None = None,
        memory_bytes: int = MEMORY_BYTES,
        disk_bytes: int = DISK_BYTES,
    ) -> None:
        self._folder = folder
        self._memory_bytes, self._disk_bytes = memory_bytes, disk_bytes
        self._texts: OrderedDict[str, str] = OrderedDict()
        self._size = self._written = 0
        self._lock = threading.Lock()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="wkv-notes") if folder else None
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StateError(f"{folder}: nothing can be kept here ({error})") from error

    def put(self, key: str, value: Json, *, at_once: bool = False) -> None:
        """Keep a value; it is in the folder a moment later, or when this returns."""
        text = json.dumps(value)
        self._remember(key, text)
        if self._writer is not None:
            written = self._writer.submit(self._write, self._path(key), text)
            if at_once:
                written.result()

    def get(self, key: str, *, lasting: bool = False) -> Json | None:
        """The value of a key; None if there is none.

        A lasting one is looked for in the folder, where another process may have deleted it.
        """
        if not KEY.fullmatch(key):
            return None
        if lasting and self._folder is not None and not self._path(key).exists():
            return None
        with self._lock:
            text = self._texts.get(key)
            if text is not None:
                self._texts.move_to_end(key)
        if text is None and self._folder is not None:
            with suppress(OSError, UnicodeDecodeError):
                text = self._path(key).read_text("utf-8")
                os.utime(self._path(key))
        if text is None:
            return None
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return None
        self._remember(key, text)
        return value

    def delete(self, key: str) -> None:
        """Forget a value."""
        with self._lock:
            self._size -= len(self._texts.pop(key, ""))
        if self._folder is not None and KEY.fullmatch(key):
            with suppress(OSError):
                self._path(key).unlink()

    def close(self) -> None:
        """Write what is left, and end."""
        if self._writer is not None:
            self._writer.shutdown()

    def _remember(self, key: str, text: str) -> None:
        with self._lock:
            self._size += len(text) - len(self._texts.pop(key, ""))
            self._texts[key] = text
            while self._size > self._memory_bytes:
                _, gone = self._texts.popitem(last=False)
                self._size -= len(gone)

    def _path(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{key}{SUFFIX}"

    def _write(self, path: Path, text: str) -> None:
        partial = path.with_name(f"{path.stem}.{uuid4().hex}{PARTIAL}")
        with suppress(OSError):  # a disk that fails costs speed later and nothing else
            partial.write_text(text, "utf-8")
            partial.replace(path)
            self._written += 1
            if self._written % TIDY_EVERY == 1:
                keep_within(path.parent, self._disk_bytes)
