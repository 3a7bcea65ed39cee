"""Download a file over HTTP, and continue a download that was interrupted."""

import hashlib
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wkv.errors import CatalogError

if TYPE_CHECKING:
    import httpx

Report = Callable[[str, int, int], None]
"""A progress callback: "fetching" or "checking", bytes done, total bytes (0 if unknown)."""

BLOCK = 2**22

ATTEMPTS = 4
"""Failures in a row, without any byte in between, after which a download stops."""

CONNECT_SECONDS, READ_SECONDS = 10.0, 30.0

RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")


@dataclass(frozen=True)
class Remote:
    """A file on a server.

    Attributes:
        url: its address.
        path: its path in the repository, or its name.
        size: its size in bytes; None if it is unknown.
        sha256: its SHA-256 as 64 hexadecimal digits; None if it is unknown.
    """

    url: str
    path: str
    size: int | None = None
    sha256: str | None = None


def download(remote: Remote, target: Path, report: Report, pause: float = 1.0) -> Path:
    """Download a file to a path, or the rest of it, check it, and return the path.

    The bytes that have arrived are kept in `NAME.incomplete` beside it, also after an error.

    Args:
        remote: the file.
        target: where to store it. An existing file is returned as it is.
        report: called often.
        pause: seconds to wait before the first repetition; doubled each time.

    Raises:
        CatalogError: if the server cannot be reached or refuses, the disk is full, or the checksum
            is wrong, in which case the file is deleted.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.incomplete")
    failures = 0
    while True:
        before = _size(partial)
        try:
            _rest(remote, partial, report)
            break
        except ConnectionError as error:
            failures = 1 if _size(partial) > before else failures + 1
            if failures == ATTEMPTS:
                total = f" of {remote.size:,}" if remote.size else ""
                raise CatalogError(
                    f"{remote.path}: the download stopped after {_size(partial):,}{total} bytes "
                    f"({error}); run the same command again to resume it"
                ) from error
            time.sleep(pause * 2 ** (failures - 1))
    check(remote, partial, report)
    partial.replace(target)
    return target


def check(remote: Remote, partial: Path, report: Report) -> None:
    """Compare the size and checksum of a downloaded file with the expected ones.

    Raises:
        CatalogError: if they differ; then the file is deleted.
    """
    size = _size(partial)
    if remote.size is not None and size != remote.size:
        partial.unlink()
        raise CatalogError(
            f"{remote.path}: {remote.url} sent {size:,} bytes, expected {remote.size:,}; they were "
            "deleted, try again"
        )
    if remote.sha256 is None:
        return
    digest, done = hashlib.sha256(), 0
    with partial.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            done += len(block)
            report("checking", done, size)
    if digest.hexdigest() != remote.sha256:
        partial.unlink()
        raise CatalogError(
            f"{remote.path}: the file at {remote.url} has the SHA256 {digest.hexdigest()}, "
            f"expected {remote.sha256}; it was deleted, so try again, or another --source"
        )


def _rest(remote: Remote, partial: Path, report: Report) -> None:
    """Download the missing rest of a partial file.

    Raises:
        ConnectionError: if the connection breaks, or the server is overloaded.
        CatalogError: for errors that do not go away.
    """
    import httpx

    done = _size(partial)
    headers = {"Range": f"bytes={done}-"} if done else {}
    timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    try:
        with (
            httpx.Client(follow_redirects=True, timeout=timeout) as client,
            client.stream("GET", remote.url, headers=headers) as response,
        ):
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                if remote.size == done:
                    return
                partial.unlink()
                raise ConnectionError("the server has another file now")
            _check_status(remote, response.status_code)
            start = _start(response)
            length = int(response.headers.get("Content-Length", 0))
            _check_space(partial, length)
            total = remote.size or (start + length if length else 0)
            with partial.open("ab") as file:
                file.truncate(min(start, done))
                if start > done:
                    raise ConnectionError("the server sent another part than requested")
                report("fetching", start, total)
                for block in response.iter_raw():
                    file.write(block)
                    report("fetching", file.tell(), total)
                if total and file.tell() < total:
                    raise ConnectionError("the connection ended early")
    except httpx.HTTPError as error:
        raise ConnectionError(str(error)[:120] or type(error).__name__) from error


def _start(response: "httpx.Response") -> int:
    """Return the position in the file of the first byte of a response."""
    found = RANGE.match(response.headers.get("Content-Range", ""))
    return int(found[1]) if response.status_code == 206 and found else 0


def _check_status(remote: Remote, status: int) -> None:
    """Raise an error unless the server sends the file."""
    if status in (200, 206):
        return
    if status in (408, 429) or status >= 500:
        raise ConnectionError(f"the server answered {status}")
    reason = {404: "has no such file", 401: "requires an account", 403: "denies access"}.get(
        status, f"answered {status}"
    )
    raise CatalogError(f"{remote.path}: {remote.url} {reason}; check the name, or another --source")


def _check_space(partial: Path, needed: int) -> None:
    """Raise an error if the disk has too little space."""
    free = shutil.disk_usage(partial.parent).free
    if needed > free:
        raise CatalogError(
            f"{needed:,} bytes are needed and {free:,} are free in {partial.parent}; free disk "
            "space, or set HF_HOME to a folder on another disk"
        )


def _size(path: Path) -> int:
    """Return the size of a file, 0 if it does not exist."""
    return path.stat().st_size if path.exists() else 0
