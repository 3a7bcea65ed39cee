"""An entry of the catalog, and reading them all from `models.toml`."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote

MAIN = "main"
"""The newest commit of a repository of the hub."""

HUB = "https://huggingface.co"
"""Where a person finds a repository; files are fetched from wherever `huggingface_hub` looks."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One checkpoint of the catalog.

    Attributes:
        name: FAMILY:SIZE.
        generation: "4", "5.0", "5.1", "5.2", "6", "7" or "7a".
        repo, file: where it is on the hub.
        n_params: number of parameters.
        n_layer, n_embd: L and D.
        context: tokens it was trained on at a time.
        languages: codes such as "en zh", or "100+".
        license: of the weights.
        bytes: size of the file; None where it is not known.
        sha256: of the file, 64 hexadecimal digits; None where it is not known.
        revision: a commit of the repository, if not its newest.
    """

    name: str
    generation: str
    repo: str
    file: str
    n_params: int
    n_layer: int
    n_embd: int
    context: int
    languages: str
    license: str
    bytes: int | None = None
    sha256: str | None = None
    revision: str = MAIN

    @property
    def family(self) -> str:
        """The name's part before the colon."""
        return self.name.partition(":")[0]

    @property
    def disk_bytes(self) -> int:
        """Size of the file; where it is not known, that of its parameters in 16 bits."""
        return self.bytes or 2 * self.n_params

    def memory_bytes(self, itemsize: int) -> int:
        """Memory of the weights, with so many bytes per number; states and text are far less."""
        return itemsize * self.n_params

    @property
    def page(self) -> str:
        """The repository's page."""
        return f"{HUB}/{self.repo}"

    @property
    def url(self) -> str:
        """Where the file can be fetched by hand."""
        return f"{self.page}/resolve/{self.revision}/{quote(self.file)}"


@cache
def entries() -> tuple[Entry, ...]:
    """All entries, family by family, small to large."""
    text = files("wkv.hub").joinpath("models.toml").read_text(encoding="utf-8")
    return tuple(
        entry for family, table in tomllib.loads(text).items() for entry in _family(family, table)
    )


def _family(family: str, table: dict[str, Any]) -> Iterator[Entry]:
    """The entries of a family: what its models do not say themselves, the family says."""
    models = table.pop("models")
    for model in models:
        size = model.pop("size")
        yield Entry(name=f"{family}:{size}", **{**table, **model})
