"""Download files of the catalog into the cache of `huggingface_hub`.

The library handles the mirror (HF_ENDPOINT), the cache (HF_HOME) and offline mode
(HF_HUB_OFFLINE). It does not resume interrupted downloads: newer releases delete a partial file.
For this reason the file is downloaded here and stored in the cache under the library's own name,
so that the library finds it.
"""

import errno
import hashlib
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import unquote

from wkv.errors import CatalogError
from wkv.hub.catalog import MAIN, Entry
from wkv.hub.repository import Repository, stored
from wkv.hub.sources import (
    LIST_SECONDS,
    MIRROR,
    HuggingFace,
    Source,
    UnreachableError,
    sources,
)
from wkv.hub.transfer import Report, download

BLOCK = 2**22

TAG = re.compile(r"[\w-]+", re.ASCII)
"""The accepted form of an ETag. It becomes a file name, so other characters would be unsafe."""


def cached(entry: Entry) -> Path | None:
    """Return the cached file of an entry, or None. This never accesses the network."""
    from huggingface_hub import try_to_load_from_cache

    for revision in dict.fromkeys((entry.revision, MAIN)):
        found = try_to_load_from_cache(entry.repo, entry.file, revision=revision)
        if isinstance(found, str):
            return Path(found)
    return stored(_elsewhere(entry))


def fetch(
    entry: Entry,
    on_progress: Report | None = None,
    *,
    source: str = "auto",
    on_source: Callable[[str], None] = lambda _: None,
) -> Path:
    """Return the cached file of an entry; download it, or resume its download, if necessary.

    The catalog's checksum decides whether the file is right, so any source may be used.

    Args:
        entry: an entry of the catalog, or one that the caller created.
        on_progress: called often during the download and the computation of the checksum.
        source: "auto", which tries all sources, or a name of `wkv.hub.sources.NAMES`.
        on_source: called with the address of the source before the download.

    Returns:
        The path in the cache.

    Raises:
        CatalogError: if the hub cannot be reached, does not have the file, or has a different
            one. A file with a wrong checksum is deleted.
    """
    found = cached(entry)
    if found is not None:
        return found
    report = on_progress or (lambda *_: None)
    first: CatalogError | None = None
    for server in sources(source):
        try:
            return _fetch_from(server, entry, report, on_source)
        except UnreachableError as error:
            first = first or error
    raise first or CatalogError(f"{entry.name}: no source has this file")


def _fetch_from(
    server: Source, entry: Entry, report: Report, on_source: Callable[[str], None]
) -> Path:
    """Download the file of an entry from one source.

    Raises:
        UnreachableError: if the source does not answer.
        CatalogError: for other problems.
    """
    if not isinstance(server, HuggingFace):
        return _fetch_elsewhere(server, entry, report, on_source)
    try:
        with _quiet():
            return _fetch(entry, report, server.endpoint, on_source)
    except CatalogError:
        raise
    except Exception as error:  # the library raises the errors of its HTTP client too
        kind = UnreachableError if _is_unreachable(error) else CatalogError
        raise kind(f"{entry.name}: {_explanation(entry, error, server.endpoint)}") from error


def _elsewhere(entry: Entry) -> Repository:
    """Return where a file of the catalog lies that does not come from a Hugging Face server."""
    return Repository(entry.repo, entry.file, entry.revision)


def _fetch_elsewhere(
    server: Source, entry: Entry, report: Report, on_source: Callable[[str], None]
) -> Path:
    """Download the file of an entry from a server with another interface."""
    if entry.sha256 is None:
        raise UnreachableError(
            f"{entry.name}: the catalog has no checksum of this file, so it is not downloaded from "
            f"{server.endpoint}; see {entry.page}"
        )
    wanted = _elsewhere(entry)
    for remote in server.files(entry.repo, MAIN):
        if remote.path == entry.file:
            on_source(server.endpoint)
            known = replace(remote, sha256=entry.sha256, size=entry.bytes or remote.size)
            return download(known, wanted.folder / entry.file, report)
    raise CatalogError(f"{entry.name}: {server.endpoint} does not have {entry.file}")


def _fetch(entry: Entry, report: Report, endpoint: str, on_source: Callable[[str], None]) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    # No token is sent, because these files are public.
    metadata = get_hf_file_metadata(
        hf_hub_url(entry.repo, entry.file, revision=entry.revision, endpoint=endpoint),
        token=False,
        timeout=LIST_SECONDS,
    )
    etag, commit, size = metadata.etag or "", metadata.commit_hash, metadata.size
    if not TAG.fullmatch(etag) or commit is None or size is None:
        raise CatalogError(
            f"{entry.name}: {endpoint} does not answer like a Hugging Face hub (no commit or "
            "size in its reply); check HF_ENDPOINT and the network"
        )
    _compare(entry, _as_sha256(etag))
    blob, lock = _cache_paths(entry, etag)
    with WeakFileLock(str(lock)):
        if not blob.exists():
            on_source(endpoint)
            url = hf_hub_url(entry.repo, entry.file, revision=commit, endpoint=endpoint)
            partial = blob.with_name(f"{blob.name}.incomplete")
            _complete(partial, url, size, report)
            _check(entry, partial, _as_sha256(etag), report)
            partial.replace(blob)
    return Path(
        hf_hub_download(
            entry.repo, entry.file, revision=entry.revision, token=False, endpoint=endpoint
        )
    )


def _cache_paths(entry: Entry, etag: str) -> tuple[Path, Path]:
    """Return the paths at which the library stores a file and locks it while writing."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    folder = repo_folder_name(repo_id=entry.repo, repo_type="model")
    blob = Path(HF_HUB_CACHE, folder, "blobs", etag)
    lock = Path(HF_HUB_CACHE, ".locks", folder, f"{etag}.lock")
    blob.parent.mkdir(parents=True, exist_ok=True)
    lock.parent.mkdir(parents=True, exist_ok=True)
    return blob, lock


def _complete(partial: Path, url: str, size: int, report: Report) -> None:
    """Download the missing rest of a partial file."""
    from huggingface_hub.file_download import http_get

    done = partial.stat().st_size if partial.exists() else 0
    if done > size:
        partial.unlink()
        done = 0
    free = shutil.disk_usage(partial.parent).free
    if size - done > free:
        raise CatalogError(
            f"{size - done:,} bytes are needed and {free:,} are free in {partial.parent}; "
            "free disk space, or set HF_HOME to a folder on another disk"
        )
    report("fetching", done, size)
    if done == size:
        partial.touch()
        return
    try:
        with partial.open("ab") as file:
            counted = cast(Any, _Counted(file, size, report))
            http_get(url, counted, resume_size=done, expected_size=size)
    except Exception as error:  # of the library or its HTTP client, as in `fetch`
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES):
            raise
        raise CatalogError(
            f"{unquote(url.rpartition('/')[2])}: the download stopped after "
            f"{partial.stat().st_size:,} of {size:,} bytes ({_reason(error)}); run the same "
            "command again to resume it"
        ) from error


class _Counted:
    """A file that reports its length after each write, with only the methods the library calls."""

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
    """Compare the checksum of a downloaded file with the expected one; delete a wrong file."""
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
            f"{entry.name}: the downloaded file has the SHA256 {digest.hexdigest()}, expected "
            f"{expected}; it was deleted, so pull again, and if that fails too see {entry.page}"
        )


def _compare(entry: Entry, on_hub: str | None) -> None:
    """Check before the download that the hub's file is the one in the catalog."""
    if entry.sha256 is not None and on_hub is not None and entry.sha256 != on_hub:
        raise CatalogError(
            f"{entry.name}: the hub's {entry.file} has the SHA256 {on_hub}, expected "
            f"{entry.sha256}: it was replaced after the catalog was written; see {entry.page}, "
            "download the file manually and give its path"
        )


def _as_sha256(etag: str) -> str | None:
    """Return an ETag that is a SHA-256, as for large files, or None for that of a small file."""
    return etag if len(etag) == 64 and set(etag) <= set("0123456789abcdef") else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the library's progress bars and its warnings of each retry."""
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


def _is_unreachable(error: Exception) -> bool:
    """Return whether another source may help: the server did not answer as it should."""
    from huggingface_hub import errors

    gone = (errors.EntryNotFoundError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError)
    if isinstance(error, (*gone, errors.OfflineModeIsEnabled)):
        return isinstance(error, errors.LocalEntryNotFoundError)
    is_local = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES)
    return not is_local and not isinstance(error, (NotADirectoryError, FileExistsError))


def _explanation(entry: Entry, error: Exception, endpoint: str) -> str:
    """Explain what went wrong, and what the user can do."""
    from huggingface_hub import errors

    manually = f"download {entry.url} manually and give its path"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"it is not in the cache, and HF_HUB_OFFLINE is set; unset it, or {manually}"
    gone = (errors.EntryNotFoundError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError)
    if isinstance(error, gone) and not isinstance(error, errors.LocalEntryNotFoundError):
        return (
            f"the hub does not have {entry.file} in {entry.repo}, which may have been renamed; "
            f"see {entry.page}, download a file there and give its path"
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full; free disk space, or set HF_HOME to a folder on another disk"
    if isinstance(error, (PermissionError, NotADirectoryError, FileExistsError)):
        return f"the cache cannot be written ({error}); set HF_HOME to a writable folder"
    return (
        f"the hub {endpoint} could not be reached ({_reason(error)}); check the network, or set "
        f"HF_ENDPOINT to a mirror such as {MIRROR}, or {manually}"
    )


def _reason(error: Exception) -> str:
    """Return the beginning of an error message, without the advice that libraries add."""
    return " ".join(str(error).split())[:120].rstrip(". ") or type(error).__name__
