"""Sources of models: Hugging Face, its mirror, and ModelScope.

A source lists the files of a repository with their sizes and checksums. Checksums are compared
after each download, so a mirror cannot replace a file of the catalog.
Source of the ModelScope requests: its Python client, modelscope_hub.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

from wkv.errors import CatalogError
from wkv.hub.transfer import Remote

HUGGING_FACE, MIRROR = "https://huggingface.co", "https://hf-mirror.com"
MODELSCOPE = "https://www.modelscope.cn"

NAMES = ("huggingface", "hf-mirror", "modelscope")
"""The sources, in the order in which they are tried."""

LIST_SECONDS = 5.0
"""Time in which a source must answer; then the next one is tried."""

MODELSCOPE_BRANCH = "master"

MOST_LISTED = 3000
"""Number of files at which ModelScope cuts its lists without a message."""


class UnreachableError(CatalogError):
    """A source does not answer, so another one may be tried."""


class Source(Protocol):
    """A server of model repositories."""

    @property
    def name(self) -> str:
        """The name in NAMES."""
        ...

    @property
    def endpoint(self) -> str:
        """The address of the server."""
        ...

    def files(self, repo: str, revision: str) -> list[Remote]:
        """Return the files of a repository.

        Raises:
            UnreachableError: if the source does not answer.
            CatalogError: if it does not have the repository.
        """
        ...


@dataclass(frozen=True)
class HuggingFace:
    """Hugging Face, or a server with the same interface."""

    name: str = "huggingface"
    endpoint: str = HUGGING_FACE

    def files(self, repo: str, revision: str) -> list[Remote]:
        """Return the files of a repository; see `Source.files`."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

        try:
            # No token is sent: it belongs to the user's programs, not to every server here.
            info = HfApi(self.endpoint, token=False).model_info(
                repo, revision=revision, files_metadata=True, timeout=LIST_SECONDS
            )
        except RepositoryNotFoundError as error:
            raise _no_repository(self, repo) from error
        except HfHubHTTPError as error:
            status = getattr(error.response, "status_code", 500)
            if status < 500:
                raise _no_repository(self, repo) from error
            raise UnreachableError(f"{self.endpoint} answered {status}") from error
        except Exception as error:  # of the library's HTTP client
            raise _unreachable(self, error) from error
        commit = info.sha or revision
        return [
            Remote(
                f"{self.endpoint}/{repo}/resolve/{quote(commit)}/{quote(file.rfilename)}",
                file.rfilename,
                file.size,
                file.lfs.sha256 if file.lfs else None,
            )
            for file in info.siblings or ()
        ]


@dataclass(frozen=True)
class ModelScope:
    """ModelScope, which can be reached from China."""

    name: str = "modelscope"
    endpoint: str = MODELSCOPE

    def files(self, repo: str, revision: str) -> list[Remote]:
        """Return the files of a repository; see `Source.files`."""
        branch = MODELSCOPE_BRANCH if revision == "main" else revision
        listed = self._listed(repo, branch)
        if len(listed) >= MOST_LISTED:
            raise CatalogError(
                f"{repo}: {self.endpoint} lists too many files; give a file's address"
            )
        return [
            self._remote(repo, branch, entry) for entry in listed if _field(entry, "Type") != "tree"
        ]

    def _remote(self, repo: str, branch: str, entry: dict[str, Any]) -> Remote:
        path, size, sha256 = (_field(entry, name) for name in ("Path", "Size", "Sha256"))
        url = (
            f"{self.endpoint}/api/v1/models/{repo}/repo?Revision={quote(branch)}"
            f"&FilePath={quote(str(path), safe='')}"
        )
        return Remote(url, str(path), int(size) if size else None, str(sha256) if sha256 else None)

    def _listed(self, repo: str, branch: str) -> list[dict[str, Any]]:
        """Return the entries of the list that ModelScope sends."""
        import httpx

        url = f"{self.endpoint}/api/v1/models/{repo}/repo/files"
        try:
            reply = httpx.get(
                url,
                params={"Revision": branch, "Recursive": "true"},
                timeout=LIST_SECONDS,
                follow_redirects=True,
            )
            if reply.status_code >= 500:
                raise UnreachableError(f"{self.endpoint} answered {reply.status_code}")
            if reply.status_code >= 400:
                raise _no_repository(self, repo)
            files = _field(_field(reply.json(), "Data"), "Files")
        except (httpx.HTTPError, ValueError) as error:
            raise _unreachable(self, error) from error
        if not isinstance(files, list) or not all(isinstance(entry, dict) for entry in files):
            raise _no_repository(self, repo)
        return files


def sources(choice: str) -> Sequence[Source]:
    """Return the sources of a choice, in the order in which they are tried.

    Args:
        choice: "auto" or a name of NAMES. With HF_ENDPOINT in the environment, which
            `huggingface_hub` reads, `auto` and "huggingface" mean that server alone.

    Raises:
        CatalogError: for any other name.
    """
    from huggingface_hub.constants import ENDPOINT

    own = HuggingFace(endpoint=ENDPOINT.rstrip("/"))
    known: dict[str, Source] = {
        "huggingface": own,
        "hf-mirror": HuggingFace("hf-mirror", MIRROR),
        "modelscope": ModelScope(),
    }
    if choice == "auto":
        return (own,) if own.endpoint != HUGGING_FACE else tuple(known.values())
    if choice not in known:
        raise CatalogError(f"{choice!r} is not a source; expected auto or {', '.join(NAMES)}")
    return (known[choice],)


def _field(value: Any, name: str) -> Any:
    """Return a field of a JSON object; some servers write its name in lower case."""
    if not isinstance(value, dict):
        return None
    return value.get(name, value.get(name.lower()))


def _no_repository(source: Source, repo: str) -> CatalogError:
    return CatalogError(
        f"{repo}: {source.endpoint} has no such public repository; check the name, or give another "
        "--source"
    )


def _unreachable(source: Source, error: Exception) -> UnreachableError:
    reason = " ".join(str(error).split())[:120].rstrip(". ") or type(error).__name__
    return UnreachableError(f"{source.endpoint} could not be reached ({reason})")
