"""Read the catalog of official checkpoints from `models.toml`."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote

MAIN = "main"
"""The branch with the newest commit of a repository on the hub."""

HUB = "https://huggingface.co"
"""Base of the links for users. `huggingface_hub` decides from which host files are downloaded."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One checkpoint of the catalog.

    Attributes:
        name: FAMILY:SIZE.
        generation: "4", "5.0", "5.1", "5.2", "6", "7" or "7a".
        repo, file: repository on the hub, and path of the file in it.
        n_params: number of parameters.
        n_layer, n_embd: L and D.
        context: context length of the training, in tokens.
        languages: language codes such as "en zh", or "100+".
        license: license of the weights.
        bytes: size of the file in bytes, or None if it is unknown.
        sha256: SHA-256 of the file as 64 hexadecimal digits, or None if it is unknown.
        revision: a commit of the repository; the default is the newest.
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
        """The part of the name before the colon."""
        return self.name.partition(":")[0]

    @property
    def disk_bytes(self) -> int:
        """The size of the file in bytes; if it is unknown, two bytes per parameter."""
        return self.bytes or 2 * self.n_params

    def memory_bytes(self, itemsize: int) -> int:
        """Return the memory of the weights in bytes, with `itemsize` bytes per parameter."""
        return itemsize * self.n_params

    @property
    def page(self) -> str:
        """The URL of the repository's web page."""
        return f"{HUB}/{self.repo}"

    @property
    def url(self) -> str:
        """The URL from which a user can download the file manually."""
        return f"{self.page}/resolve/{self.revision}/{quote(self.file)}"


@cache
def entries() -> tuple[Entry, ...]:
    """Return all entries, grouped by family and ordered by size."""
    text = files("wkv.hub").joinpath("models.toml").read_text(encoding="utf-8")
    return tuple(
        entry for family, table in tomllib.loads(text).items() for entry in _family(family, table)
    )


def recommended(n_bytes: int) -> Entry | None:
    """Return the largest model of the newest family that leaves a quarter of a memory free.

    Args:
        n_bytes: size of the memory; weights need two bytes per parameter.
    """
    newest = entries()[0].family
    fitting = [
        entry
        for entry in entries()
        if entry.family == newest and entry.memory_bytes(2) < 0.75 * n_bytes
    ]
    return fitting[-1] if fitting else None


def _family(family: str, table: dict[str, Any]) -> Iterator[Entry]:
    """Return the entries of a family; its fields are defaults for those of its models."""
    models = table.pop("models")
    for model in models:
        size = model.pop("size")
        yield Entry(name=f"{family}:{size}", **{**table, **model})
