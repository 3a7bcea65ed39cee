"""Resolve a name that a user typed to a model of the catalog, a repository or an address."""

import math
import re
from difflib import get_close_matches
from pathlib import Path

from wkv.errors import CatalogError
from wkv.hub.catalog import Entry, entries
from wkv.hub.download import cached
from wkv.hub.repository import Address, Repository, parse, stored

NAME = re.compile(r"[\w.+-]{2,}:[\w.+-]+", re.ASCII)
"""The form FAMILY:SIZE. A family has at least two letters, because `C:model` is a Windows path."""

SIZE = re.compile(r"(\d+(?:\.\d+)?)(b|m)?", re.ASCII)
"""A number of parameters, by default in billions."""

SUFFIXES = ("", ".pth", ".safetensors")
"""The extensions that a path may omit, as in `wkv.checkpoint.open_checkpoint`."""


def find(name: str) -> Entry:
    """Return the entry of a name in any case, or of a file name with or without `.pth`.

    Raises:
        CatalogError: if there is none; the message suggests similar names or the family's sizes.
    """
    wanted = name.strip().lower()
    for entry in entries():
        if wanted in (entry.name, entry.file.lower(), entry.file.lower().removesuffix(".pth")):
            return entry
    raise CatalogError(f"{name}: {_advice(wanted)}")


def lookup(name: str | Path) -> Entry | Repository | Address | None:
    """Return what a name refers to, or None if it is a path.

    A name is first the path of an existing file, then a name of the catalog, then a repository.

    Raises:
        CatalogError: if the name has the form FAMILY:SIZE or is a family, and is not in the
            catalog; or if it is an address that cannot be that of a model.
    """
    try:
        if any(Path(f"{name}{suffix}").exists() for suffix in SUFFIXES):
            return None
    except OSError:  # such as a name that is too long for a file, which is reported on opening
        return None
    text = str(name).strip()
    if NAME.fullmatch(text) or text.lower() in _families():
        return find(text)
    try:
        return find(text)
    except CatalogError:
        wanted = parse(text)
    if isinstance(wanted, Repository) and wanted.file is None:
        known = [entry.name for entry in entries() if entry.repo == wanted.repo]
        if known:
            raise CatalogError(
                f"{name}: this is a repository of the catalog, expected one of its models: "
                f"{', '.join(known)}; or a file in it, as {wanted.repo}/FILE"
            )
    return wanted


def resolve(name: str | Path) -> str | Path:
    """Return the cached file of a name; a path is returned unchanged. Never uses the network.

    Raises:
        CatalogError: if the name is not in the catalog, or its file is not on this machine.
    """
    wanted = lookup(name)
    if wanted is None:
        return name
    path = cached(wanted) if isinstance(wanted, Entry) else stored(wanted)
    if path is None and isinstance(wanted, Entry):
        raise CatalogError(
            f"{wanted.name} is not on this machine yet and must be downloaded first; run: wkv "
            f"pull {wanted.name}"
        )
    if path is None:
        raise CatalogError(
            f"{wanted}: there is no such file or folder, and it was not downloaded from a hub; "
            f"check the path or, if it is a repository, run: wkv pull {wanted}"
        )
    return path


def _families() -> tuple[str, ...]:
    return tuple(dict.fromkeys(entry.family for entry in entries()))


def _advice(wanted: str) -> str:
    """Return the error message for a name that is not in the catalog."""
    family, colon, _ = wanted.partition(":")
    names = [entry.name for entry in entries()]
    sizes = [name for name in names if name.startswith(f"{family}:")]
    near = get_close_matches(wanted, names, n=3) or get_close_matches(family, _families(), n=3)
    if sizes and not colon:
        return f"this is a family of models, expected one of its sizes: {', '.join(sizes)}"
    if sizes:
        nearest = _nearest(wanted, sizes)
        return f"the catalog has no such size, did you mean {nearest}? There are {', '.join(sizes)}"
    if near:
        return f"the catalog has no such model, did you mean {' or '.join(near)}? (see: wkv models)"
    return (
        f"the catalog has no such model, expected one of {', '.join(_families())}; see wkv models"
    )


def _nearest(wanted: str, sizes: list[str]) -> str:
    """Return the name of the nearest size; the sizes are compared as numbers, if they are."""
    parameters = {name: _parameters(name) for name in (wanted, *sizes)}
    if parameters[wanted] == 0:
        return get_close_matches(wanted, sizes, n=1, cutoff=0)[0]
    return min(sizes, key=lambda name: abs(math.log(parameters[name] / parameters[wanted])))


def _parameters(name: str) -> float:
    """Return the number of parameters in a name such as g1:0.4b or pile:169m, in millions."""
    match = SIZE.fullmatch(name.partition(":")[2])
    return float(match[1]) * (1 if match[2] == "m" else 1000) if match else 0.0
