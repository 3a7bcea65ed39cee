"""Download models that are not in the catalog: repositories, files in them, and addresses.

Files are stored in the folder `wkv` of huggingface_hub's home (HF_HOME):

    OWNER--NAME/REVISION/PATH           of a repository
    addresses/DIGEST/NAME               of any other address
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import unquote, urlsplit

from wkv.errors import CatalogError
from wkv.hub.sources import Source, UnreachableError, sources
from wkv.hub.transfer import Remote, Report, download

MAIN = "main"

SUFFIXES = (".pth", ".safetensors", ".gguf", ".st", ".bin")
"""Endings of files that may be checkpoints."""

REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/(.+))?", re.ASCII)
"""OWNER/NAME, OWNER/NAME@REVISION, and a file in it."""

PAGE = re.compile(
    r"https?://(?:(?:www\.)?(?:huggingface\.co|hf\.co|hf-mirror\.com)/"
    r"|(?:www\.)?modelscope\.(?:cn|ai)/models/)([\w.-]+/[\w.-]+)"
    r"(?:/(?:resolve|blob|raw|tree|files|file/view)(?:/([\w.-]+)(?:/(.+?))?)?)?/?(?:\?.*)?",
    re.ASCII,
)
"""The address of a repository or of a file in it."""

IN_FOLDER = re.compile(
    r"[^/]+\.(json|txt|jinja|model)|(?:model|pytorch_model)[^/]*\.(safetensors|bin)"
)
"""Files that are downloaded of a Hugging Face directory."""

COMPLETE = ".complete"
"""Marks a folder with all files; contains the path of the model if it is a single file."""

MOST_SHOWN = 12
"""Number of files that an error lists."""


@dataclass(frozen=True)
class Repository:
    """A repository on a hub, or one file in it.

    Attributes:
        repo: OWNER/NAME.
        file: path of the file; None for the whole repository.
        revision: branch or commit.
    """

    repo: str
    file: str | None = None
    revision: str = MAIN

    @property
    def folder(self) -> Path:
        """The folder of its files on this machine."""
        return home() / self.repo.replace("/", "--") / self.revision

    def __str__(self) -> str:
        """Return the name that a user would type."""
        revision = "" if self.revision == MAIN else f"@{self.revision}"
        return f"{self.repo}{revision}{f'/{self.file}' if self.file else ''}"


@dataclass(frozen=True)
class Address:
    """The address of a file."""

    url: str

    @property
    def path(self) -> Path:
        """The path of the file on this machine."""
        name = Path(unquote(urlsplit(self.url).path)).name
        digest = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        return home() / "addresses" / digest / name

    def __str__(self) -> str:
        """Return the address."""
        return self.url


def home() -> Path:
    """Return the folder of downloaded models that are not in the catalog."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "wkv"


def parse(name: str) -> Repository | Address | None:
    """Return the repository, file or address that a name means; None if it is a path.

    A name with one slash is a repository unless it ends like a checkpoint or its folder exists.

    Raises:
        CatalogError: if the address cannot be that of a model.
    """
    page = PAGE.fullmatch(name)
    if page is not None:
        return _repository(page[1], unquote(page[3]) if page[3] else None, page[2] or MAIN)
    if re.match(r"https?://", name):
        suffix = Path(unquote(urlsplit(name).path)).suffix
        if suffix not in SUFFIXES:
            raise CatalogError(
                f"{name[:200]}: the address ends in {suffix or 'no file name'!r}, expected that of "
                f"a file that ends in one of {', '.join(SUFFIXES)}"
            )
        return Address(name)
    found = REPOSITORY.fullmatch(name)
    if found is None or Path(found[1].partition("/")[0]).is_dir():
        return None
    if found[3] is None and Path(found[1]).suffix in SUFFIXES:
        return None
    if found[1].startswith((".", "/")) or "/." in name:
        return None
    if found[3] is not None and Path(found[3]).suffix not in SUFFIXES:
        return None
    return _repository(found[1], found[3], found[2] or MAIN)


def _repository(repo: str, file: str | None, revision: str) -> Repository | None:
    """Return a repository; None if a part of the path could leave its folder."""
    parts = [*repo.split("/"), revision, *(file or "x").split("/")]
    if any(part in ("", ".", "..") or "\\" in part or ":" in part for part in parts):
        return None
    return Repository(repo, file, {"master": MAIN}.get(revision, revision))


def stored(wanted: Repository | Address) -> Path | None:
    """Return the complete file or folder on this machine, or None. Never uses the network."""
    if isinstance(wanted, Address):
        return wanted.path if wanted.path.is_file() else None
    if wanted.file is not None:
        path = wanted.folder / wanted.file
        return path if path.is_file() else None
    marker = wanted.folder / COMPLETE
    return wanted.folder / marker.read_text(encoding="utf-8") if marker.is_file() else None


def fetch_repository(
    wanted: Repository | Address,
    report: Report = lambda *_: None,
    *,
    source: str = "auto",
    on_file: Callable[[Remote], None] = lambda _: None,
) -> Path:
    """Return the file or folder of a model, and download what is missing.

    Args:
        wanted: the repository, file or address.
        report: called often, see `transfer.Report`.
        source: "auto" or a name of `sources.NAMES`.
        on_file: called before each file is downloaded.

    Raises:
        CatalogError: if no source has it, or the download stops.
    """
    found = stored(wanted)
    if found is not None:
        return found
    if isinstance(wanted, Address):
        remote = Remote(wanted.url, wanted.path.name)
        on_file(remote)
        return download(remote, wanted.path, report)
    files = _selected(wanted, _listed(wanted, sources(source)))
    for remote in files:
        if not (wanted.folder / remote.path).is_file():
            on_file(remote)
        download(remote, wanted.folder / remote.path, report)
    if wanted.file is not None:
        return wanted.folder / wanted.file
    only = files[0].path if len(files) == 1 else ""
    (wanted.folder / COMPLETE).write_text(only, encoding="utf-8")
    return wanted.folder / only


def _listed(wanted: Repository, tried: Sequence[Source]) -> list[Remote]:
    """Return the files of a repository from the first source that has it."""
    problems = []
    for source in tried:
        try:
            return source.files(wanted.repo, wanted.revision)
        except CatalogError as error:
            problems.append(error)
    missing = [problem for problem in problems if not isinstance(problem, UnreachableError)]
    if missing:
        raise missing[0]
    reasons = "; ".join(str(problem) for problem in problems)
    raise CatalogError(f"{wanted}: {reasons}; check the network, or give another --source")


def _selected(wanted: Repository, files: Sequence[Remote]) -> list[Remote]:
    """Return the files to download: one file, or those of a Hugging Face directory.

    Raises:
        CatalogError: if there is none, or several models of which one must be named.
    """
    paths = {remote.path: remote for remote in files if _repository("a/b", remote.path, MAIN)}
    if wanted.file is not None:
        if wanted.file not in paths:
            near = get_close_matches(wanted.file, paths, n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}?" if near else f"it has {len(paths)} files"
            raise CatalogError(f"{wanted.repo}: there is no file {wanted.file}; {hint}")
        return [paths[wanted.file]]
    weights = [path for path in paths if path.endswith(SUFFIXES)]
    in_folder = [path for path in paths if IN_FOLDER.fullmatch(path)]
    if "config.json" in paths and any(path in in_folder for path in weights):
        safe = [path for path in in_folder if path.endswith(".safetensors")]
        return [paths[path] for path in in_folder if not (safe and path.endswith(".bin"))]
    if len(weights) == 1:
        return [paths[weights[0]]]
    if not weights:
        raise CatalogError(
            f"{wanted.repo}: there is no model in this repository; expected a Hugging Face "
            f"directory, or a file that ends in one of {', '.join(SUFFIXES)}"
        )
    shown = ", ".join(f"{wanted.repo}/{path}" for path in sorted(weights)[:MOST_SHOWN])
    more = f", and {len(weights) - MOST_SHOWN} more" if len(weights) > MOST_SHOWN else ""
    raise CatalogError(
        f"{wanted.repo}: this repository has several models; give one: {shown}{more}"
    )
