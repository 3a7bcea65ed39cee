"""Files of the catalog in the cache of `huggingface_hub`, and fetching them into it.

The library knows the mirror (HF_ENDPOINT), the cache (HF_HOME) and whether to stay offline
(HF_HUB_OFFLINE). What it does not do is go on where an earlier run was cut off: newer releases
throw a partial file away. So the bytes are put into the cache here, under the name that the
library itself gives them, and it then finds them there.
"""

import errno
import hashlib
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import unquote

from wkv.errors import CatalogError
from wkv.hub.catalog import MAIN, Entry

Report = Callable[[str, int, int], None]
"""Told how far it is: "fetching" or "checking", bytes done, bytes in all."""

MIRROR = "https://hf-mirror.com"
BLOCK = 2**22

TAG = re.compile(r"[\w-]+", re.ASCII)
"""What a hub calls the bytes of a file. It becomes a file's name, so it may be nothing else."""


def cached(entry: Entry) -> Path | None:
    """The file in the cache, or None. Never touches the network."""
    from huggingface_hub import try_to_load_from_cache

    for revision in dict.fromkeys((entry.revision, MAIN)):
        found = try_to_load_from_cache(entry.repo, entry.file, revision=revision)
        if isinstance(found, str):
            return Path(found)
    return None


def fetch(entry: Entry, on_progress: Report | None = None) -> Path:
    """The file of an entry, from the cache or else from the hub; goes on where it was cut off.

    Args:
        entry: of the catalog, or one of your own.
        on_progress: called often while bytes come in, and while their checksum is taken.

    Returns:
        The path in the cache.

    Raises:
        CatalogError: if the hub cannot be reached, has no such file, or a wrong one. A file with a
            wrong checksum does not stay.
    """
    found = cached(entry)
    if found is not None:
        return found
    try:
        with _quiet():
            return _fetch(entry, on_progress or (lambda *_: None))
    except CatalogError:
        raise
    except Exception as error:  # the library passes on the errors of whatever carries its requests
        raise CatalogError(f"{entry.name}: {_told(entry, error)}") from error


def _fetch(entry: Entry, report: Report) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    # No token is sent: these files are public.
    about = get_hf_file_metadata(
        hf_hub_url(entry.repo, entry.file, revision=entry.revision), token=False
    )
    if not TAG.fullmatch(about.etag or "") or about.commit_hash is None or about.size is None:
        raise CatalogError(
            f"{entry.name}: what answers at {_endpoint()} is no hub (it names no commit or size); "
            "check HF_ENDPOINT and the network"
        )
    tag = str(about.etag)
    _compare(entry, _as_sha256(tag))
    blob, lock = _places(entry, tag)
    with WeakFileLock(str(lock)):
        if not blob.exists():
            url = hf_hub_url(entry.repo, entry.file, revision=about.commit_hash)
            partial = blob.with_name(f"{blob.name}.incomplete")
            _complete(partial, url, about.size, report)
            _check(entry, partial, _as_sha256(tag), report)
            partial.replace(blob)
    return Path(hf_hub_download(entry.repo, entry.file, revision=entry.revision, token=False))


def _places(entry: Entry, etag: str) -> tuple[Path, Path]:
    """Where the library keeps the bytes of a file, and the lock it takes to write them."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    folder = repo_folder_name(repo_id=entry.repo, repo_type="model")
    blob = Path(HF_HUB_CACHE, folder, "blobs", etag)
    lock = Path(HF_HUB_CACHE, ".locks", folder, f"{etag}.lock")
    blob.parent.mkdir(parents=True, exist_ok=True)
    lock.parent.mkdir(parents=True, exist_ok=True)
    return blob, lock


def _complete(partial: Path, url: str, size: int, report: Report) -> None:
    """Fetch what is missing of a file."""
    from huggingface_hub.file_download import http_get

    done = partial.stat().st_size if partial.exists() else 0
    if done > size:
        partial.unlink()
        done = 0
    free = shutil.disk_usage(partial.parent).free
    if size - done > free:
        raise CatalogError(
            f"{size - done:,} bytes are to come and {free:,} are free in {partial.parent}; "
            "make room, or set HF_HOME to a folder on another disk"
        )
    report("fetching", done, size)
    if done == size:
        partial.touch()
        return
    try:
        with partial.open("ab") as file:
            counted = cast(Any, _Counted(file, size, report))
            http_get(url, counted, resume_size=done, expected_size=size)
    except Exception as error:  # as in `fetch`
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES):
            raise
        raise CatalogError(
            f"{unquote(url.rpartition('/')[2])}: the hub stopped after {partial.stat().st_size:,} "
            f"of {size:,} bytes ({_reason(error)}); they are kept, and the same command goes on "
            "from there"
        ) from error


class _Counted:
    """A file that reports how long it has become; the library asks no more of it than this."""

    def __init__(self, file: IO[bytes], size: int, report: Report) -> None:
        self._file = file
        self._size = size
        self._report = report

    def write(self, data: bytes) -> int:
        written = self._file.write(data)
        self._report("fetching", self._file.tell(), self._size)
        return written

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def truncate(self, size: int | None = None) -> int:
        return self._file.truncate(size)


def _check(entry: Entry, partial: Path, on_hub: str | None, report: Report) -> None:
    """Compare the checksum of what came with what is known; what is wrong does not stay."""
    expected = entry.sha256 or on_hub
    if expected is None:
        return
    size, done = partial.stat().st_size, 0
    digest = hashlib.sha256()
    with partial.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            done += len(block)
            report("checking", done, size)
    if digest.hexdigest() != expected:
        partial.unlink()
        raise CatalogError(
            f"{entry.name}: the file that came has the SHA256 {digest.hexdigest()}, expected "
            f"{expected}; it was removed, so pull again, and if it stays so look at {entry.page}"
        )


def _compare(entry: Entry, on_hub: str | None) -> None:
    """Before gigabytes come: is the hub's file the one that the catalog knows?"""
    if entry.sha256 is not None and on_hub is not None and entry.sha256 != on_hub:
        raise CatalogError(
            f"{entry.name}: the hub's {entry.file} has the SHA256 {on_hub}, expected "
            f"{entry.sha256}: it was replaced since the catalog was written; look at {entry.page}, "
            "fetch the file by hand and give its path"
        )


def _as_sha256(etag: str) -> str | None:
    """The checksum of a large file is its tag on the hub; that of a small file is another."""
    return etag if len(etag) == 64 and set(etag) <= set("0123456789abcdef") else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's warnings of each retry; the error at the end is ours."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    shown = not are_progress_bars_disabled()
    if shown:
        disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if shown:
            enable_progress_bars()


def _endpoint() -> str:
    from huggingface_hub.constants import ENDPOINT

    return str(ENDPOINT)


def _told(entry: Entry, error: Exception) -> str:
    """What went wrong, and what to do."""
    from huggingface_hub import errors

    by_hand = f"download {entry.url} by hand and give its path"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"it is not in the cache, and HF_HUB_OFFLINE is set; unset it, or {by_hand}"
    gone = (errors.EntryNotFoundError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError)
    if isinstance(error, gone) and not isinstance(error, errors.LocalEntryNotFoundError):
        return (
            f"the hub has no {entry.file} in {entry.repo} (any more): its makers may have renamed "
            f"it; look at {entry.page}, fetch a file there and give its path"
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full; make room, or set HF_HOME to a folder on another disk"
    if isinstance(error, (PermissionError, NotADirectoryError, FileExistsError)):
        return f"the cache cannot be written ({error}); set HF_HOME to a folder that can"
    return (
        f"the hub {_endpoint()} could not be reached ({_reason(error)}); check the network, or set "
        f"HF_ENDPOINT to a mirror such as {MIRROR}, or {by_hand}"
    )


def _reason(error: Exception) -> str:
    """The first words of an error; libraries go on with advice that does not fit here."""
    return " ".join(str(error).split())[:120].rstrip(". ") or type(error).__name__
